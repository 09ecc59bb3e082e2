import { TicketSocket, verdict } from 'ticketgate'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

const doc = new Y.Doc()
const provider = new WebsocketProvider(`${location.origin}/yjs`, 'room7', doc, {
  WebSocketPolyfill: TicketSocket,
  shouldReconnect: (e) => !['sign-in', 'stop'].includes(verdict(e)), // by itself: no 44xx
  disableBc: true, // or tabs share the text without the server, signed in or not
  connect: false,
})

export const text = doc.getText('notes')

export function join(receive: (state: string) => void) {
  provider.on('sync', (synced) => { if (synced) receive('in sync') })
  provider.connect()
}
