// What the codes mean, in plain words.

const closings = {
  "4401 ticket_rejected": "Not admitted. The page is told nothing more, so that a thief learns nothing.",
  "4401 session_revoked": "The session was ended, and the server closed this socket with it.",
  "4401 session_expired": "The session ran out, and the server closed this socket with it.",
  "4401 unauthenticated": "There is no session, and so there was no ticket.",
  "4403 forbidden": "Not from this page, or not to this address.",
  "4429 too_many": "Too many at once.",
  "4429 evicted": "A newer socket of the same person took its place.",
};

const codes = {
  1000: "Closed by this page.",
  1001: "The server is stopping.",
  1006: "The line broke. A browser tells a page no more than that.",
  1009: "The message was too long.",
  1013: "The server cannot tell just now. Try again later.",
};

// closing says what a close code and reason mean.
export function closing(code, reason) {
  return closings[`${code} ${reason}`] ?? codes[code] ?? "The server closed this socket.";
}

const reasons = {
  used: "it had been used before",
  expired: "its time was over",
  endpoint: "it was made out for another address",
  origin: "the page that showed it is not of this site",
  unknown: "nobody was given such a ticket, or it is long forgotten",
  revoked: "the session it belongs to was ended",
  no_ticket: "there was no ticket",
  two_tickets: "there were two tickets",
  store: "tickets could not be checked",
};

// why says what a reason in the log means.
export const why = (reason) => reasons[reason] ?? "the log has the reason";
