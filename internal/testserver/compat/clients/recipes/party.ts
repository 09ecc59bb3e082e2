import ReconnectingWebSocket from 'partysocket/ws'
import { TicketSocket, verdict } from 'ticketgate'

class Socket extends TicketSocket {
  constructor(...args: ConstructorParameters<typeof TicketSocket>) {
    super(...args)
    this.addEventListener('close', (e) => { // partysocket sees no close of a refused mint
      if (['sign-in', 'stop'].includes(verdict(e))) socket.close()
    })
  }
}
const socket = new ReconnectingWebSocket('/ws', [], {
  WebSocket: Socket,
  startClosed: true,
  minReconnectionDelay: 1000 + Math.random() * 4000, // its own is the same for every page
  connectionTimeout: 30_000, // a mint is part of it
})

export function join(receive: (text: string) => void) {
  socket.addEventListener('message', ({ data }) => receive(data))
  socket.reconnect()
}
