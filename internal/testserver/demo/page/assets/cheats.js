// Five ways in that must not work.

import { $, el, fill, still } from "./dom.js";
import { mint, present, ticketID, SignedOut, session } from "./api.js";
import { refusal } from "./refusal.js";
import { now } from "./stream.js";
import { presentElsewhere } from "./other.js";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Each try returns where it showed what, and what came of it; once or more.
const tries = [
  {
    title: "Use a ticket twice",
    text: "Somebody copied the address, ticket and all. You were first.",
    async run(step) {
      const ticket = await mint("/ws");
      step("Using a fresh ticket…");
      await present("/ws", ticket.value);
      step("Let in. Now the same ticket again…");
      return { path: "/ws", id: ticket.id, ...(await present("/ws", ticket.value)) };
    },
  },
  {
    title: "Come too late",
    text: "Hold a ticket until its time is over, and then show it.",
    async run(step) {
      const ticket = await mint("/ws");
      // The server may count in parts of a second: one more, to be sure.
      await waiting(step, ticket.seconds + 1);
      return { path: "/ws", id: ticket.id, ...(await present("/ws", ticket.value)) };
    },
  },
  {
    title: "Try another door",
    text: "A ticket that was made out for /ws/admin, shown at /ws.",
    async run() {
      const ticket = await mint("/ws/admin");
      return { path: "/ws", id: ticket.id, ...(await present("/ws", ticket.value)) };
    },
  },
  {
    title: "Bring none, or make one up",
    text: "The login cookie alone opens nothing. Nor do 32 random bytes that look like a ticket.",
    async run() {
      const none = { path: "/ws/admin", match: { reason: "no_ticket" }, ...(await present("/ws/admin", "")) };
      const bytes = crypto.getRandomValues(new Uint8Array(32));
      const value = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace("=", "");
      const guess = { path: "/ws", id: await ticketID(value), ...(await present("/ws", value)) };
      return [none, guess];
    },
  },
  {
    title: "Come from another site",
    wide: true,
    text: "Somebody else’s page, which somehow got a good ticket of yours. Here is a real one.",
    async run(step, box) {
      const ticket = await mint("/ws");
      step("Handing a good ticket to the other page…");
      const outcome = await presentElsewhere(box, "/ws", ticket.value);
      // The Origin is looked at before the ticket: it is not spent.
      const here = outcome.letIn ? null : await present("/ws", ticket.value);
      const more = here && ["from here", here.letIn ? "let in: it was not spent" : `${here.code} ${here.reason}`, here.letIn ? "in" : "no"];
      return { path: "/ws", match: { reason: "origin" }, more, ...outcome };
    },
  },
];

export function start() {
  const cards = tries.map(card);
  $("cheats").append(...cards.map((c) => c.node));
  // Side by side where tickets have names to tell the log's lines by.
  $("cheat-all").addEventListener("click", async () => {
    for (const c of cards) crypto.subtle ? c.go() : await c.go();
  });
  session.addEventListener("ended", () => {
    $("cheat-all").disabled = true;
    cards.forEach((c) => c.clear());
  });
}

function card({ title, text, wide, run }) {
  const pill = el("p", { className: "pill" }, "not tried");
  const outcome = el("div", { className: "outcome", "aria-live": "polite" });
  const box = el("div", { hidden: true });
  const label = el("span", {}, "Try it");
  const button = el("button", { type: "button", className: "small", onclick: go }, label, el("span", { className: "sr" }, `: ${title}`));
  const node = el("li", { className: wide ? "cheat wide" : "cheat" },
    el("div", { className: "cheat-top" }, el("h3", {}, title), pill),
    el("p", {}, text), box, outcome, button);
  let busy = false;

  function state(name, label) {
    node.dataset.state = name;
    fill(pill, label);
  }

  async function go() {
    if (busy || button.disabled) return;
    busy = true;
    button.setAttribute("aria-disabled", "true");
    state("pending", "trying");
    const since = now();
    try {
      const results = [await run((...what) => outcome.replaceChildren(...what), box)].flat();
      if (results.some((r) => r.letIn)) {
        state("alarm", "let in");
        outcome.replaceChildren(el("p", {}, "The server let this in. It should not have."));
      } else {
        const told = await Promise.all(results.map((r) => refusal(r, { since, ...r })));
        state("refused", "refused");
        outcome.replaceChildren(...told);
      }
      fill(label, "Try again");
    } catch (err) {
      state("", "not tried");
      outcome.replaceChildren(err instanceof SignedOut ? "" : `It could not be tried: ${err.message}`);
    }
    busy = false;
    button.removeAttribute("aria-disabled");
  }

  return { node, go, clear: () => (button.disabled = true) };
}

// waiting shows a time run out.
async function waiting(step, seconds) {
  const until = Date.now() + seconds * 1000;
  const bar = el("i");
  const text = el("span");
  step(text, el("div", { className: "wait-bar", "aria-hidden": "true" }, bar));
  for (;;) {
    const left = until - Date.now();
    if (left <= 0) return;
    // Screen readers hear it twice, and not every second.
    fill(text, left > 5000 ? "Holding a fresh ticket, and waiting…" : "A few seconds more…");
    bar.style.transform = `scaleX(${left / (seconds * 1000)})`;
    await sleep(Math.min(left, still.matches ? 1000 : 60));
  }
}
