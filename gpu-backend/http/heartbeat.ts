/** Tells the reader of an answer that somebody is still at work on it: a beat wherever nothing else was sent for a while. */
import { heartbeatMs } from "../../shared/contracts/inference.ts";

export class Heartbeat {
  readonly #timer: ReturnType<typeof setInterval>;
  #isSpoken = false;

  /** Runs `beat` until it is stopped. */
  constructor(beat: () => void) {
    this.#timer = setInterval(() => {
      if (!this.#isSpoken) beat();
      this.#isSpoken = false;
    }, heartbeatMs);
  }

  /** Something was sent: the next beat is not needed. */
  spoken(): void {
    this.#isSpoken = true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
