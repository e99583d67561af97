/**
 * Shows the reader of an answer that this process is alive: sends a beat after each interval of `heartbeatMs` in which nothing
 * else was sent. It says nothing about the engine.
 */
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
