// A page under Content-Security-Policy: default-src 'self'.

import { TicketSocket } from '/ticketgate.js'

const say = (text) => { document.querySelector('p').textContent += text }

addEventListener('securitypolicyviolation', (e) => say(` violation ${e.violatedDirective} ${e.blockedURI} ${e.originalPolicy}`))

const socket = new TicketSocket('/ws')
socket.onmessage = ({ data }) => {
  say(data)
  const elsewhere = new (TicketSocket.with({ carrier: 'protocol' }))('ws://127.0.0.1:9/ws', ['chat'])
  elsewhere.onerror = () => say(` blocked ${elsewhere.readyState}`)
}
