// open opens a socket at another origin. Without a bearer token the cookie buys the ticket.
export async function open(api, path, token) {
  const who = token ? { headers: { Authorization: `Bearer ${token}` } } : { credentials: 'include' }
  const minted = await fetch(api + '/api/auth/ws-ticket', { method: 'POST', ...who })
  if (!minted.ok) throw new Error(`no ticket: ${minted.status}`)
  const { ticket } = await minted.json()
  return new WebSocket(api.replace(/^http/, 'ws') + path + '?ticket=' + ticket)
}
