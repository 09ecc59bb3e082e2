import { createClient } from 'graphql-ws'
import { TicketSocket, verdict } from 'ticketgate'

class Socket extends TicketSocket {
  override dispatchEvent(e: Event) { // 4401 and 4429 are fatal before shouldRetry is asked
    const again = e instanceof CloseEvent && ['retry', 'wait'].includes(verdict(e))
    const { type, reason } = e as CloseEvent
    return super.dispatchEvent(again ? new CloseEvent(type, { code: 1013, reason }) : e)
  }
}
const client = createClient({
  url: '/graphql',
  webSocketImpl: Socket,
  retryAttempts: Infinity,
  shouldRetry: (e) => !['sign-in', 'stop'].includes(verdict(e as CloseEvent)),
})

export function join(receive: (text: string) => void) {
  client.subscribe<{ greeting: string }>({ query: 'subscription { greeting }' },
    { next: ({ data }) => receive(data!.greeting), error: console.log, complete() {} })
}
