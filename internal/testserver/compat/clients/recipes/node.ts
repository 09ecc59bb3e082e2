import { connect } from 'ticketgate'

export function join(url: string, token: () => string, receive: (text: string) => void) {
  return connect(url, {
    headers: () => ({ Authorization: `Bearer ${token()}` }), // a program has no cookies
    protocols: ['chat'], carrier: 'protocol', // the ticket is in no URL, and so in no log
    signIn: ({ reason }) => { throw new Error(`not signed in: ${reason}`) }, // ends the program
    onmessage: ({ data }) => receive(data),
  })
}
