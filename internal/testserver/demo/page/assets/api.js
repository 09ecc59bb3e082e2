// What the page asks of the server.

// session tells the page's parts that the session is over: event "ended", with
// what is known of it as detail.
export const session = new EventTarget();
let over = false, leaving = false;

// isOver says whether there is anything left to ask for: not in a session that
// has ended, nor in one that this page is about to end.
export const isOver = () => over || leaving;

export function end(detail) {
  if (isOver()) return;
  over = true;
  session.dispatchEvent(new CustomEvent("ended", { detail }));
}

// leave ends the page's own session by how. What its sockets are told
// meanwhile is no news.
export async function leave(how) {
  leaving = true;
  session.dispatchEvent(new Event("leaving"));
  try {
    const result = await how();
    leaving = false;
    end({ by: "you", result });
    return result;
  } catch (err) {
    leaving = false;
    session.dispatchEvent(new Event("staying"));
    throw err;
  }
}

export class SignedOut extends Error {}

async function ask(path, options) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  if (answer.status === 401) {
    const { error } = await answer.json().catch(() => ({}));
    end({ code: 401, reason: error ?? "unauthenticated" });
    throw new SignedOut();
  }
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(`${answer.status} ${error ?? answer.statusText}`);
  }
  return answer.json();
}

export const me = () => ask("/api/auth/me");
export const sessions = () => ask("/api/sessions");
export const revoke = (fields) => ask("/api/sessions/revoke", { method: "POST", body: new URLSearchParams(fields) });
export const signOut = () => ask("/logout", { method: "POST" });

// mint gets a ticket that is good for one address.
export async function mint(endpoint) {
  const answer = await ask("/api/auth/ws-ticket", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ endpoint }),
  });
  const minted = Date.now();
  return {
    value: answer.ticket,
    id: await ticketID(answer.ticket),
    endpoint,
    seconds: answer.ttl_seconds,
    until: minted + answer.ttl_seconds * 1000,
  };
}

// ticketID is the name of a ticket in the log: the beginning of its SHA-256.
// Browsers compute that on https and on this machine only; "" elsewhere.
export async function ticketID(value) {
  if (!crypto.subtle) return "";
  const sum = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(value));
  return Array.from(new Uint8Array(sum, 0, 6), (b) => b.toString(16).padStart(2, "0")).join("");
}

// socketURL is where to open a socket: here, or at another server that shares its tickets with this.
export function socketURL(path, value, host = location.host) {
  const url = new URL(path, location.href);
  url.host = host;
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (value) url.searchParams.set("ticket", value);
  return url;
}

// present shows a ticket at a door, and goes again. A refusal comes as a close
// code, so whoever gets an echo was let in.
export function present(path, value) {
  return new Promise((resolve) => {
    const socket = new WebSocket(socketURL(path, value));
    let letIn = false;
    socket.onopen = () => socket.send("hello");
    socket.onmessage = () => {
      letIn = true;
      socket.close(1000);
    };
    socket.onclose = ({ code, reason }) => resolve({ letIn, code, reason });
  });
}
