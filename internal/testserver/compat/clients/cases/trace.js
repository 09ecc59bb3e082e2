// What the cases have in common: how a socket is watched, and what is written down.

const types = ['open', 'message', 'error', 'close']

// describe is all that an event tells a listener.
export function describe(e, socket) {
  const what = [e.type, e.constructor.name, `state ${socket.readyState}`]
  if (e.target !== socket || e.currentTarget !== socket) what.push('another target')
  if (e.bubbles || e.cancelable || e.composed) what.push('bubbles or so')
  if (e.type === 'message') {
    what.push(typeof e.data === 'string' ? `text ${e.data.slice(0, 40)}` : e.data.constructor.name)
    what.push(e.origin, e.lastEventId, e.source, e.ports.length)
  }
  if (e.type === 'close') what.push(e.code, e.reason, e.wasClean)
  return what.join(' ')
}

// trace resolves with what happened until there was an event of the type, and shortly after.
export function trace(socket, until = 'close') {
  const seen = []
  return new Promise((resolve) => {
    for (const type of types) {
      socket.addEventListener(type, (e) => {
        seen.push(describe(e, socket))
        if (type === until) setTimeout(() => resolve([...seen, `at last ${socket.readyState}`]), 20)
      })
    }
  })
}

// on resolves with the next event of the type.
export const on = (socket, type) =>
  new Promise((resolve) => socket.addEventListener(type, resolve, { once: true }))

// opened returns a socket that is open. It is closed by the one who opens it.
export async function opened(S, url, protocols) {
  const socket = new S(url, protocols)
  await on(socket, 'open')
  return socket
}

// closed returns a socket that was open and is closed.
export async function closed(S, url) {
  const socket = await opened(S, url)
  socket.close()
  await on(socket, 'close')
  return socket
}

// attempt is what a call comes to: what it throws, or that it returns.
export function attempt(call) {
  try {
    const value = call()
    return ['returns', value === undefined ? 'undefined' : value]
  } catch (e) {
    return ['throws', e.constructor.name, e.name]
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
