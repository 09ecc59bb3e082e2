// The sockets of this page.

import { $, el, fill } from "./dom.js";
import { TicketSocket, verdict } from "/ticketgate.js";
import { socketURL, end } from "./api.js";
import { closing } from "./words.js";

// Where there is no session, the dashboard says so, and stays.
const Socket = TicketSocket.with({ signIn() {} });
let count = 0;

export function start(servers = []) {
  $("open-ws").addEventListener("click", () => connect("/ws"));
  $("open-admin").addEventListener("click", () => connect("/ws/admin"));
  for (const host of servers) {
    const button = el("button", { type: "button" }, "Open ", el("code", {}, "/ws"), ` at ${host}`);
    button.addEventListener("click", () => connect("/ws", { host }));
    $("open-admin").after(button);
  }
}

export function clear() {
  for (const b of $("open-ws").parentElement.children) b.disabled = true;
}

// connect opens a socket and gives it a card: with the ticket in the hand, if there is one, or
// with one that the socket gets for itself. It resolves when the server has admitted the page
// (the first echo says so) or has refused it.
export function connect(path, { ticket, host } = {}) {
  const socket = ticket ? new WebSocket(socketURL(path, ticket.value, host)) : new Socket(socketURL(path, "", host));
  const view = card(host ? `${path} at ${host}` : path, socket);
  $("sockets").prepend(view.node);
  $("sockets-empty").hidden = true;

  return new Promise((resolve) => {
    const sent = [];
    let opened = false, letIn = false;
    view.onsend = (text) => {
      sent.push(performance.now());
      socket.send(text);
    };
    socket.onopen = () => {
      opened = true;
      view.onsend("hello");
    };
    socket.onmessage = ({ data }) => {
      view.message(String(data), performance.now() - sent.shift());
      if (letIn) return;
      letIn = true;
      view.open();
      resolve({ letIn });
    };
    socket.onclose = ({ code, reason }) => {
      view.close(letIn, code, reason);
      resolve({ letIn, code, reason });
      if (verdict({ code, reason }) === "sign-in") end({ code: opened ? code : 401, reason });
    };
  });
}

function card(path, socket) {
  const number = ++count;
  const pill = el("p", { className: "pill", role: "status" }, "connecting");
  const messages = el("ol", { className: "messages", tabIndex: 0, "aria-label": `Messages of socket ${number}` });
  const input = el("input", { disabled: true, value: "", placeholder: "Say something", autocomplete: "off", "aria-label": `Message for socket ${number}`, maxLength: 2000 });
  const send = el("button", { disabled: true }, "Send");
  const why = el("p", { className: "socket-why", hidden: true });
  const close = el("button", { type: "button", className: "small", onclick: () => (socket.readyState < 2 ? socket.close(1000) : remove()) }, "Close");
  close.setAttribute("aria-label", `Close socket ${number}`);
  const form = el("form", { className: "socket-send", onsubmit: submit }, input, send);
  const node = el("li", { className: "socket", data: { state: "pending" } },
    el("div", { className: "socket-top" }, el("h3", {}, `#${number} ${path}`), pill, close), why, messages, form);

  function submit(event) {
    event.preventDefault();
    if (socket.readyState !== 1 || !input.value) return;
    view.onsend(input.value);
    input.value = "";
  }

  function remove() {
    node.remove();
    $("sockets-empty").hidden = $("sockets").childElementCount > 0;
    $("open-ws").focus();
  }

  const view = {
    node,
    onsend: () => {},
    open() {
      node.dataset.state = "open";
      fill(pill, "open");
      input.disabled = send.disabled = false;
    },
    message(text, ms) {
      messages.append(el("li", {}, el("span", {}, "echo"), el("span", {}, text), el("span", {}, `${ms.toFixed(1)} ms`)));
      messages.scrollTop = messages.scrollHeight;
    },
    close(wasIn, code, reason) {
      const told = code >= 4000 || code === 1006;
      node.dataset.state = told ? "refused" : "closed";
      fill(pill, `${wasIn ? "closed" : "refused"} ${code} ${reason}`.trim());
      fill(why, closing(code, reason));
      why.hidden = false;
      form.hidden = true;
      fill(close, "Remove");
      close.setAttribute("aria-label", `Remove socket ${number} from the list`);
    },
  };
  return view;
}
