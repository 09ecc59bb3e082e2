// Everybody who is connected: a row group for each session, a row for each of
// its connections. Rows are kept and changed in place, so that whoever is on a
// button with the keyboard stays there.

import { $, el, fill, plural } from "./dom.js";
import { session, sessions, revoke, leave, isOver, SignedOut } from "./api.js";
import { onLine } from "./stream.js";

const every = 2000; // ms, for times and bytes
const linger = 30_000; // ms that an ended connection stays in view

const groups = new Map(); // by session
const telling = new Set(["login_success", "logout", "revoke", "ws_opened", "ws_closed"]);
const everyday = new Set(["closed", "dropped"]); // ends that a page or its network chose
let me = "", soon = 0, asking = false;

// start shows the table to the person called user.
export function start(user) {
  me = user;
  document.querySelector(".people tbody").remove();
  onLine((line) => {
    if (line.event === "ws_closed" && !everyday.has(line.reason)) ended(line);
    if (telling.has(line.event) && !soon) soon = setTimeout(refresh, 120);
  });
  setInterval(() => document.hidden || refresh(), every);
  refresh();
}

async function refresh() {
  soon = 0;
  if (asking || isOver()) return;
  asking = true;
  try {
    draw(await sessions());
  } catch (err) {
    if (!(err instanceof SignedOut)) fill($("people-said"), "The server does not answer.");
  }
  asking = false;
}

function draw(live) {
  const here = new Set(live.map((s) => s.session));
  for (const s of live) {
    const group = groups.get(s.session) ?? add(s);
    group.all.hidden = live.filter((o) => o.user_id === s.user_id).length < 2;
    drawRows(group, s.sockets);
  }
  for (const [id, group] of groups) if (!here.has(id)) over(group, id);
}

function drawRows(group, sockets) {
  const now = Date.now();
  const here = new Set(sockets.map((s) => s.id));
  for (const s of sockets) {
    const row = group.rows.get(s.id) ?? addRow(group, s);
    if (row.until) continue;
    fill(row.cells[2], duration(now - new Date(s.opened_at)));
    fill(row.cells[3], bytes(s.bytes_in));
    fill(row.cells[4], bytes(s.bytes_out));
  }
  for (const [id, row] of group.rows) {
    if (!here.has(id) && !(row.until > now)) {
      row.node.remove();
      group.rows.delete(id);
    }
  }
  fill(group.note, group.rows.size ? "" : "no open connection");
}

// over takes out a session that has ended, when its last row has been seen.
function over(group, id) {
  group.one.hidden = group.all.hidden = true;
  fill(group.since, "session ended");
  drawRows(group, []);
  if (group.rows.size === 0) {
    group.node.remove();
    groups.delete(id);
  }
}

function add(s) {
  const one = el("button", { type: "button", className: "small", onclick: () => stop({ session: s.session }, s) }, "Revoke this one");
  const all = el("button", { type: "button", className: "small", onclick: () => stop({ user: s.user_id }, s) }, `All of ${s.user_id}`);
  one.setAttribute("aria-label", `Revoke this one: session ${s.session} of ${s.user_id}`);
  all.setAttribute("aria-label", `All of ${s.user_id}: revoke every session`);
  const note = el("span");
  const since = el("span", {}, `since ${new Date(s.started_at).toLocaleTimeString("en-GB")}`);
  const node = el("tbody", {},
    el("tr", { className: "session" }, el("th", { colSpan: 6, scope: "rowgroup" },
      el("div", { className: "session-in" },
        el("span", { className: "avatar", "aria-hidden": "true" }, [...s.user_id][0]),
        el("span", { className: "session-who" },
          el("b", {}, s.user_id), s.current ? " (this browser)" : "",
          el("small", {}, el("code", {}, s.session), " ", since, " ", note)),
        el("span", { className: "session-do" }, one, all)))));
  const group = { node, one, all, since, note, current: s.current, rows: new Map() };
  groups.set(s.session, group);
  document.querySelector(".people")[s.current ? "tHead" : "lastElementChild"].after(node);
  return group;
}

const names = ["Connection", "From", "Open for", "In", "Out", "State"];

function addRow(group, s) {
  const pill = el("span", { className: "pill", data: { state: "open" } }, "open");
  const texts = [s.path === "/events" ? "/events (the log)" : s.path, s.ip, "", "", "", pill];
  const cells = texts.map((text, i) => el("td", { data: { name: names[i] } }, text));
  const row = { node: el("tr", {}, ...cells), cells, pill, until: 0 };
  group.rows.set(s.id, row);
  group.node.append(row.node);
  return row;
}

// ended marks a connection that the server closed, with what its page was told.
function ended({ socket_id, close_code, reason }) {
  for (const { rows } of groups.values()) {
    const row = rows.get(socket_id);
    if (!row || row.until) continue;
    row.until = Date.now() + linger;
    row.node.classList.add("ended");
    row.pill.dataset.state = "refused";
    fill(row.pill, ["ended", close_code || "", reason].filter(Boolean).join(" "));
  }
}

// Nobody tells this page any more: its own connections are closed, and of the
// others it knows nothing.
session.addEventListener("ended", ({ detail }) => {
  for (const { current, rows } of groups.values()) {
    for (const [id, row] of rows) {
      if (row.until) continue;
      if (!current) {
        row.pill.dataset.state = "";
        fill(row.pill, "not known");
      } else if (detail.by !== "you") { // else the answer lists them, see settle
        const code = detail.code < 4000 || row.cells[0].textContent.startsWith("/events") ? 0 : detail.code;
        ended({ socket_id: id, close_code: code, reason: detail.reason });
      }
    }
  }
});

async function stop(which, s) {
  const own = which.session ? s.current : which.user === me;
  fill($("people-said"), "Ending…");
  try {
    const result = await (own ? leave(() => revoke(which)) : revoke(which));
    settle(result);
    fill($("people-said"), summary(result));
  } catch (err) {
    fill($("people-said"), err instanceof SignedOut ? "" : `Nothing ended: ${err.message}`);
  }
  refresh();
}

// settle marks what the answer to a sign-out or a revocation lists: a page whose
// own session ended hears no more of the log.
export function settle(result) {
  for (const line of result.sockets ?? []) ended(line);
}

// summary says what a sign-out or a revocation came to.
export function summary({ sessions: n, sockets }) {
  const told = [...new Set(sockets.filter((s) => s.close_code).map((s) => `${s.close_code} ${s.reason}`))].join(", ");
  return `${plural(n, "session")} ended, ${plural(sockets.length, "connection")} closed${told ? `; each page was told ${told}` : ""}.`;
}

function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

function bytes(n) {
  return n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}
