import { Client, ReconnectionTimeMode } from '@stomp/stompjs'
import { TicketSocket, verdict } from 'ticketgate'

const client = new Client({
  webSocketFactory: () => new TicketSocket('/stomp', ['v12.stomp']),
  reconnectDelay: 1000 + Math.random() * 1000, // its own is the same for every page
  reconnectTimeMode: ReconnectionTimeMode.EXPONENTIAL,
  maxReconnectDelay: 30_000,
  onWebSocketClose: (e) => {
    if (['sign-in', 'stop'].includes(verdict(e))) void client.deactivate()
  },
})

export function join(receive: (text: string) => void) {
  client.onConnect = () => client.subscribe('/topic/greetings', ({ body }) => receive(body))
  client.activate()
}
