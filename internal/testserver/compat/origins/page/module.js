import { TicketSocket } from '/ticketgate.js'

// open is the same with the module that client.Handler serves. connect has the same settings.
export async function open(api, path, token) {
  const who = token ? { headers: { Authorization: `Bearer ${token}` } } : { credentials: 'include' }
  const Socket = TicketSocket.with({ mint: api + '/api/auth/ws-ticket', ...who })
  return new Socket(api.replace(/^http/, 'ws') + path)
}
