import { connect } from 'ticketgate' // or '/ticketgate.js', as client.Handler serves it

const leaving = new AbortController() // in a component: one for each time it is mounted

export const connection = connect('/ws', {
  signal: leaving.signal,
  onopen: () => connection.send('hello'),
  onmessage: ({ data }) => console.log(data),
  onclose: ({ code, reason }) => console.log(code, reason), // it comes back
})
