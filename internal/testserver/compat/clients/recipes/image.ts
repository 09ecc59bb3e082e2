import { ticketed } from 'ticketgate'

export async function show(image: HTMLImageElement, path: string) {
  image.src = await ticketed(path)
}

export async function download(path: string) { // in a button's click
  location.assign(await ticketed(path))
}
