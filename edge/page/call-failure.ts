/** A failure in words for the reader of the page. */
export class CallFailure extends Error {
  /** The API's code of it, where it came from there and has one. */
  readonly code: string | null;

  constructor(message: string, code: string | null = null) {
    super(message);
    this.code = code;
  }
}
