export async function connect(path, onmessage, signal) {
  for (let tries = 0; !signal.aborted; await pause(tries++)) {
    const minted = await fetch('/api/auth/ws-ticket', { method: 'POST', signal }).catch(() => ({}))
    const { ticket } = minted.ok ? await minted.json().catch(() => ({})) : {}
    const since = Date.now()
    const { code, reason } = !ticket || signal.aborted ? {} : await new Promise((onclose) => {
      const socket = Object.assign(new WebSocket(`${path}?ticket=${ticket}`), { onmessage, onclose })
      signal.addEventListener('abort', () => socket.close())
    })
    if (!signal.aborted && (minted.status === 401 || code === 4401 && reason !== 'ticket_rejected')) return signIn()
    if (Date.now() - since > 5000) tries = 0 // not in onopen: a socket that is refused opens first
  }
}
const pause = (tries) => new Promise((then) => setTimeout(then, Math.random() * Math.min(30_000, 1000 * 2 ** tries)))
const signIn = () => location.assign('/login?next=' + encodeURIComponent(location.pathname + location.search))
