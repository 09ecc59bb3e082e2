import { ticketed, verdict } from 'ticketgate'

type Receive = (e: MessageEvent) => void

export async function listen(path: string, receive: Receive, signal: AbortSignal) {
  for (let tries = 0, last = ''; !signal.aborted; await pause(tries++)) {
    try {
      const url = await ticketed(`${path}?after=${last}`)
      if (signal.aborted) return
      const stream = new EventSource(url)
      await new Promise((ended) => {
        stream.onmessage = (e) => (tries = 0, last = e.lastEventId, receive(e))
        stream.onerror = ended // it would come back with a ticket that is used up
        signal.addEventListener('abort', ended)
      })
      stream.close()
    } catch (e) { // there is no ticket; where there is no session, ticketed has called signIn
      if (['sign-in', 'stop'].includes(verdict(e as CloseEvent))) return
    }
  }
}
const pause = (tries: number) =>
  new Promise((then) => setTimeout(then, Math.random() * Math.min(30_000, 1000 * 2 ** tries)))
