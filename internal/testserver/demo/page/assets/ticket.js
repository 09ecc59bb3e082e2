// One ticket in the hand: its time, its use, and what happens to it afterwards.

import { $, el, fill, still } from "./dom.js";
import { mint, present, SignedOut } from "./api.js";
import { connect } from "./sockets.js";
import { refusal } from "./refusal.js";
import { now } from "./stream.js";

const low = 6; // seconds that are few
let held = null;
let frame = 0;

export function start(user) {
  $("ticket-mint").addEventListener("click", take);
  $("ticket-use").addEventListener("click", use);
  fill($("ticket-user"), user);
}

async function take() {
  say("Asking…");
  try {
    held = await mint("/ws");
  } catch (err) {
    return say(err instanceof SignedOut ? "" : `No ticket: ${err.message}`);
  }
  fill($("ticket-value"), held.value);
  fill($("ticket-id"), held.id || "(a browser computes this on https only)");
  fill($("ticket-mint"), "Get another");
  fill($("ticket-use"), "Open a socket with it");
  $("ticket-use").disabled = false;
  state("fresh", "");
  say(`Good once, at /ws, for ${held.seconds} seconds.`);
  cancelAnimationFrame(frame);
  run();
}

// run moves the ring: with each frame, or once a second where motion is unwelcome.
function run() {
  const left = Math.max(0, held.until - Date.now());
  const whole = Math.ceil(left / 1000);
  fill($("ring-left"), String(whole));
  const shown = still.matches ? whole * 1000 : left;
  $("ring-run").style.strokeDashoffset = 100 - (100 * shown) / (held.seconds * 1000);
  $("ticket").dataset.low = whole <= low;
  if (left > 0) {
    frame = requestAnimationFrame(run);
    return;
  }
  state("expired", "Expired");
  fill($("ticket-use"), "Show it anyway");
  say("Its time is over. Nobody used it, and now nobody can.");
}

function stop() {
  cancelAnimationFrame(frame);
  $("ring-run").style.strokeDashoffset = 100;
  fill($("ring-left"), "0");
}

async function use() {
  const first = $("ticket").dataset.state === "fresh";
  const ticket = held;
  const since = now();
  say("Showing it…");
  if (first) {
    stop();
    state("used", "Used");
    fill($("ticket-use"), "Show it again");
  }
  const outcome = await (first ? connect("/ws", { ticket }) : present("/ws", ticket.value));
  if (outcome.letIn) {
    return say(el("b", {}, "Let in. "), "The server tore the ticket and opened a socket, which is below.");
  }
  say(await refusal(outcome, { since, path: "/ws", id: ticket.id }));
}

// clear takes the ticket away with the session that it belonged to.
export function clear() {
  stop();
  held = null;
  state("none", "");
  fill($("ticket-value"), "No ticket");
  fill($("ticket-id"), "–");
  fill($("ring-left"), "–");
  say("");
  $("ticket-mint").disabled = $("ticket-use").disabled = true;
}

function state(name, stamp) {
  $("ticket").dataset.state = name;
  if (name !== "fresh") $("ticket").dataset.low = false;
  fill($("ticket-stamp"), stamp);
}

function say(...what) {
  $("ticket-said").replaceChildren(...what);
}
