/** A failure in words for the reader of the page. */
export class CallFailure extends Error {}
