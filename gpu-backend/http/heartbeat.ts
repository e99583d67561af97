/** Tells the reader of an answer that somebody is still at work on it: a beat wherever nothing else was sent for a while. */
import { heartbeatMs } from "../../shared/contracts/inference.ts";
import type { EngineClient } from "../engine/client.ts";

/** An engine that said nothing for so many beats has hung: its longest phase takes seconds. */
const patience = 60;

export class Heartbeat {
  readonly #timer: ReturnType<typeof setInterval>;
  #isSpoken = false;

  /** Runs `beat` until it is stopped, but not for an engine that has hung. */
  constructor(engine: Pick<EngineClient, "messages">, beat: () => void) {
    let heard = engine.messages;
    let silentBeats = 0;
    this.#timer = setInterval(() => {
      silentBeats = engine.messages === heard ? silentBeats + 1 : 0;
      heard = engine.messages;
      if (!this.#isSpoken && silentBeats < patience) beat();
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
