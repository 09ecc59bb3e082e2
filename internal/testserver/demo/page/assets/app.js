// The dashboard: who is here, and how it ends.

import { $, el, fill } from "./dom.js";
import * as api from "./api.js";
import * as cheats from "./cheats.js";
import * as people from "./people.js";
import * as sockets from "./sockets.js";
import * as stream from "./stream.js";
import * as ticket from "./ticket.js";
import { otherName } from "./other.js";

async function start() {
  const me = await api.me();
  fill($("me-name"), me.user_id);
  $("me-name").title = me.user_id;
  fill($("me-avatar"), [...me.user_id][0]);
  const until = new Date(me.expires_at * 1000);
  fill($("me-until"), `signed in until ${until.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`);
  fill($("ttl"), String(me.ttl_seconds));
  hintAtSecond();

  ticket.start(me.user_id);
  sockets.start(me.servers);
  cheats.start();
  people.start(me.user_id);
  stream.start();
  $("sign-out").addEventListener("click", () => leave(api.signOut));
  $("sign-out-all").addEventListener("click", () => leave(() => api.revoke({ user: me.user_id })));
}

// hintAtSecond tells how to be two people at once.
function hintAtSecond() {
  const other = otherName();
  if (!other) return fill($("second"), "To be a second person, sign in from a private window.");
  $("second").replaceChildren("To be a second person, open ",
    el("a", { href: other, target: "_blank", rel: "noopener" }, other),
    ": to the browser that is another site, with cookies of its own.");
}

async function leave(how) {
  try {
    people.settle(await api.leave(how));
  } catch (err) {
    if (err instanceof api.SignedOut) api.end({ code: 401, reason: "session_expired" });
    else notice("Not signed out", err.message);
  }
}

api.session.addEventListener("ended", ({ detail }) => {
  ticket.clear();
  sockets.clear();
  $("sign-out").disabled = $("sign-out-all").disabled = true;
  for (const b of document.querySelectorAll(".people button")) b.disabled = true;
  fill($("me-until"), "signed out");
  if (detail.by === "you") {
    notice("You are signed out", people.summary(detail.result), "done");
  } else if (detail.code === 401) {
    notice("Your session is over", `The server no longer knows it, and gives this page no ticket: 401 ${detail.reason}.`);
  } else {
    const how = detail.reason === "session_expired" ? "It ran out" : "Somebody ended it";
    notice("Your session is over", `${how}, and the server closed the sockets of this page. They were told ${detail.code} ${detail.reason}.`);
  }
});

function notice(title, text, kind = "") {
  fill($("notice-title"), title);
  fill($("notice-text"), text);
  $("notice").dataset.kind = kind;
  $("notice").hidden = false;
}

start().catch((err) => {
  if (!(err instanceof api.SignedOut)) notice("The server does not answer", "Is the demo still running? Reload the page to try again.");
});
