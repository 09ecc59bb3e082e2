import { createTRPCUntypedClient, createWSClient, retryLink, wsLink } from '@trpc/client'
import type { AnyRouter } from '@trpc/server'
import { TicketSocket, verdict } from 'ticketgate'

export function join(receive: (text: string) => void) {
  const over = new AbortController()
  class Socket extends TicketSocket {
    constructor(...args: ConstructorParameters<typeof TicketSocket>) {
      super(...args)
      this.addEventListener('close', (e) => { // tRPC's onClose knows no reason
        if (['sign-in', 'stop'].includes(verdict(e))) over.abort()
      })
    }
  }
  const retryDelayMs = (n: number) => Math.random() * Math.min(30_000, 1000 * 2 ** n)
  const client = createWSClient({ url: '/trpc', WebSocket: Socket, retryDelayMs })
  over.signal.addEventListener('abort', () => client.close())
  const api = createTRPCUntypedClient<AnyRouter>({ links: [
    // A socket that closes just as a request is sent may take the request along.
    retryLink({ retry: ({ op }) => op.type !== 'mutation' && !over.signal.aborted, retryDelayMs }),
    wsLink({ client }),
  ] })
  api.subscription('greeting', undefined, { onData: (data) => receive(String(data)) })
}
