/** Frames that one part of the edge produces and another reads as they come. */
import type { Frame } from "../../shared/contracts/inference.ts";

export class FrameQueue implements AsyncIterable<Frame[]> {
  #frames: Frame[] = [];
  #isEnded = false;
  #failure: Error | null = null;
  #wake = () => {};

  push(...frames: readonly Frame[]): void {
    this.#frames.push(...frames);
    this.#wake();
  }

  /** Once its frames are read, the reader's loop ends, or throws `failure`. */
  end(failure: Error | null = null): void {
    this.#isEnded = true;
    this.#failure = failure;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Frame[]> {
    for (;;) {
      while (this.#frames.length > 0) yield this.#frames.splice(0);
      if (this.#failure) throw this.#failure;
      if (this.#isEnded) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
