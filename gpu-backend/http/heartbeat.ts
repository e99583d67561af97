/** Tells the reader of an answer that somebody is still at work on it: a beat wherever nothing else was sent for a while. */
import { heartbeatMs } from "../../shared/contracts/inference.ts";
import { type EngineClient, stallMs } from "../engine/client.ts";

export class Heartbeat {
  readonly #timer: ReturnType<typeof setInterval>;
  #isSpoken = false;

  /** Runs `beat` until it is stopped, but not for an engine that has hung. */
  constructor(engine: Pick<EngineClient, "stalledMs">, beat: () => void) {
    this.#timer = setInterval(() => {
      if (!this.#isSpoken && engine.stalledMs < stallMs) beat();
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
