import { ticketed, verdict } from 'ticketgate'

export async function listen(path: string, onmessage: (e: MessageEvent) => void, signal: AbortSignal) {
  for (let tries = 0, last = ''; !signal.aborted; await pause(tries++)) {
    try {
      const url = await ticketed(`${path}?after=${last}`)
      if (signal.aborted) return
      const stream = new EventSource(url)
      await new Promise((ended) => {
        stream.onmessage = (e) => (tries = 0, last = e.lastEventId, onmessage(e))
        stream.onerror = ended // it would come back with a ticket that is used up
        signal.addEventListener('abort', ended)
      })
      stream.close()
    } catch (e) { // no ticket
      if (['sign-in', 'stop'].includes(verdict(e as CloseEvent))) return // ticketed has called signIn
    }
  }
}
const pause = (tries: number) => new Promise((then) => setTimeout(then, Math.random() * Math.min(30_000, 1000 * 2 ** tries)))
