// Every case, with the browser's WebSocket and with TicketSocket, in one page.

import { TicketSocket } from '/ticketgate.js'
import { cases as constructing } from './constructing.js'
import { cases as events } from './events.js'
import { cases as closing } from './closing.js'
import { cases as sending } from './sending.js'

const all = { ...constructing, ...events, ...closing, ...sending }
const limit = 45_000 // ms, for a case that never ends
const atOnce = 8

// at makes the address of the same socket: in the open, or behind a guard.
const at = (path) => (query = {}) => `${path}?${new URLSearchParams(query)}`

async function observe(test, S, u) {
  let timer
  const late = new Promise((resolve) => { timer = setTimeout(resolve, limit, 'never ends') })
  const seen = await Promise.race([Promise.resolve().then(() => test(S, u)).catch((e) => `fails: ${e}`), late])
  clearTimeout(timer)
  // What the two can't have in common.
  return JSON.stringify(seen ?? 'undefined').replaceAll('/behind', '/plain')
}

// compare returns what differs, and how many cases there were.
export async function compare() {
  const Guarded = TicketSocket.with({ signIn() {}, endpoint: '' })
  const left = Object.entries(all), differences = {}
  const work = async () => {
    for (let next; (next = left.shift());) {
      const [name, test] = next
      const [native, ticket] = await Promise.all([observe(test, WebSocket, at('/plain')), observe(test, Guarded, at('/behind'))])
      if (native !== ticket) differences[name] = { native, ticket }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return { count: Object.keys(all).length, differences }
}
