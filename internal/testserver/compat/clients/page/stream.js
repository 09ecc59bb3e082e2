export async function listen(path, onmessage, signal) {
  for (let tries = 0, last = ''; !signal.aborted; await pause(tries++)) {
    const endpoint = { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ endpoint: path }) }
    const minted = await fetch('/api/auth/ws-ticket', { method: 'POST', signal, ...endpoint }).catch(() => ({}))
    if (minted.status === 401) return location.assign('/login?next=' + encodeURIComponent(location.pathname + location.search))
    const { ticket } = minted.ok ? await minted.json().catch(() => ({})) : {}
    if (ticket && !signal.aborted) await new Promise((ended) => {
      const stream = new EventSource(`${path}?ticket=${ticket}&after=${last}`)
      stream.onmessage = (message) => (tries = 0, last = message.lastEventId, onmessage(message))
      stream.onerror = () => ended(stream.close()) // or it comes back by itself, with a ticket that is spent
      signal.addEventListener('abort', stream.onerror)
    })
  }
}
const pause = (tries) => new Promise((then) => setTimeout(then, Math.random() * Math.min(30_000, 1000 * 2 ** tries)))
