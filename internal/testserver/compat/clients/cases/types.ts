// What the types must allow, and what they must refuse.

import { connect, signIn, ticketed, TicketSocket, verdict } from 'ticketgate'
import type { Connection, Refusal, Settings, Verdict } from 'ticketgate'

const socket: WebSocket = new TicketSocket('/ws')
const constructor: typeof WebSocket = TicketSocket
const other: typeof TicketSocket = TicketSocket.with({ carrier: 'protocol' }).with({ mint: new URL('https://app.example/t') })
new other('/ws', ['chat']).addEventListener('message', ({ data }) => console.log(data))
class Mine extends TicketSocket {}
new Mine(new URL('wss://app.example/ws'), 'chat').onclose = (e) => console.log(verdict(e), e.wasClean)
socket.addEventListener('error', (e) => {
  if (e instanceof CloseEvent) console.log(e.code, (e as CloseEvent & Refusal).retryAfter)
})

const settings: Settings = {
  endpoint: (u) => u.pathname.replace('/app', ''), credentials: 'include',
  headers: async () => ({ Authorization: 'Bearer x' }), signIn: (e) => console.log(e.code, e.loginURL),
}
const address: Promise<string> = ticketed('/report.csv', settings)
address.catch((e: Refusal) => e.reason)

const connection: Connection = connect('/ws', {
  protocols: ['chat'], signal: new AbortController().signal, onopen: () => connection.send('hello'),
  onmessage: ({ data }) => console.log(data), onclose: (e) => console.log(e.retryAfter, e.code), ...settings,
})
connection.send(new Uint8Array(5))
connection.socket?.send(new Blob([]))
connection.close(4000, 'bye')
signIn()
signIn({ loginURL: '/login' })

const next: Verdict = verdict({ code: 4401, reason: 'ticket_rejected' })
switch (next) {
  case 'sign-in': case 'retry': case 'wait': case 'stop': break
  default: next satisfies never
}

// @ts-expect-error a setting that is misspelt
TicketSocket.with({ endpiont: '/ws' })
// @ts-expect-error a carrier that does not exist
TicketSocket.with({ carrier: 'cookie' })
// @ts-expect-error no URL
new TicketSocket()
// @ts-expect-error an option that is misspelt
connect('/ws', { onMessage() {} })
// @ts-expect-error nothing to judge
verdict()

export { constructor }
