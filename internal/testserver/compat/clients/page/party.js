import ReconnectingWebSocket from 'partysocket/ws'
export function connect(path, onmessage, signal) {
  const socket = new ReconnectingWebSocket(async () => { // asked at every attempt
    const minted = await fetch('/api/auth/ws-ticket', { method: 'POST', signal })
    if (minted.status === 401) signIn()
    if (!minted.ok) throw new Error(`no ticket: ${minted.status}`)
    return `${path}?ticket=${(await minted.json()).ticket}`
  }, [], { minReconnectionDelay: 1000 + Math.random() * 4000, // its own is the same for every page
    shouldReconnectOnClose: (closed) => !over(closed) })
  const over = ({ code, reason }) => code === 4401 && reason !== 'ticket_rejected' // that one was lost: another is minted
  const signIn = () => { socket.close(); location.assign('/login?next=' + encodeURIComponent(location.pathname + location.search)) }
  socket.addEventListener('message', onmessage)
  socket.addEventListener('close', (closed) => over(closed) && signIn())
  signal.addEventListener('abort', () => socket.close())
}
