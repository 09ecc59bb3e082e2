import { io, WebSocket as Transport } from 'socket.io-client'
import { TicketSocket, verdict } from 'ticketgate'

class TicketTransport extends Transport {
  override createSocket(uri: string, protocols?: string | string[]) {
    const ticketed = new TicketSocket(uri, protocols)
    ticketed.addEventListener('close', (e) => {
      if (['sign-in', 'stop'].includes(verdict(e))) socket.io.reconnection(false)
    })
    return ticketed
  }
}
const socket = io({ transports: [TicketTransport], autoConnect: false })

export function join(receive: (text: string) => void) {
  socket.on('greeting', receive)
  socket.connect()
}
