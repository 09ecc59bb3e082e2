// A refusal, as the page saw it and as the log has it.

import { el } from "./dom.js";
import { closing, why } from "./words.js";
import { until } from "./stream.js";

const refused = new Set(["ws_ticket_rejected", "ws_upgrade_refused"]);

// refusal waits for the log's line about a ticket that was shown at a path, and
// tells both sides of it. What else is known of the line goes into match.
export async function refusal({ code, reason }, { since, path, id, match = {}, more }) {
  if (id) match.ticket_id = id;
  const line = await until(since, (l) =>
    refused.has(l.event) && l.path === path && Object.entries(match).every(([key, value]) => l[key] === value));
  return el("div", { className: "told" },
    el("p", {}, el("b", {}, "Refused"), line ? `: ${why(line.reason)}.` : `. ${closing(code, reason)}`),
    evidence(
      ["page saw", `${code} ${reason}`],
      ["log says", line ? `${line.event} ${line.reason}` : "nothing yet"],
      ...(more ? [more] : []),
    ));
}

// evidence sets facts out in lines.
function evidence(...rows) {
  return el("dl", { className: "evidence" },
    ...rows.map(([name, fact, state = "no"]) =>
      el("div", {}, el("dt", {}, name), el("dd", { className: state }, fact))));
}
