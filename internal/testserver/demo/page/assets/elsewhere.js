// Somebody else's page: it is handed a ticket by the page that frames it, and
// shows it at that page's server. The browser adds whose page this is.
"use strict";

(() => {
  const names = ["localhost", "127.0.0.1", "[::1]"];

  // The demo under its other name, or in a sandbox under the same one.
  function isDemo(origin) {
    if (origin === location.origin) return true;
    const { hostname, port } = new URL(origin);
    return names.includes(hostname) && names.includes(location.hostname) && port === location.port;
  }

  function say(text) {
    const p = document.createElement("p");
    p.className = "result";
    p.textContent = text;
    document.querySelector("main").append(p);
  }

  addEventListener("message", ({ source, origin, data }) => {
    if (source !== parent || !isDemo(origin)) return;
    const url = new URL(data.path, origin);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("ticket", data.ticket);
    const socket = new WebSocket(url);
    let letIn = false;
    socket.onopen = () => socket.send("hello");
    socket.onmessage = () => {
      letIn = true;
      socket.close(1000);
    };
    socket.onclose = ({ code, reason }) => {
      say(letIn ? "Let in." : `Refused: ${code} ${reason}`);
      source.postMessage({ letIn, code, reason }, origin);
    };
  });

  if (parent !== window) parent.postMessage({ ready: true }, "*");
})();
