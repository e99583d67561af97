/**
 * How far a stream has come: for each choice the number of its frames, and a digest of their tokens. As text it is the mark
 * behind the events of those frames. A cell that is to go on from it computes the whole stream again, which gives the same
 * tokens because sampling is a function of request and seed, sends only what comes after the cursor, and compares digests:
 * a stream whose tokens differ must not go on. Pure.
 */
import type { Frame } from "../../shared/contracts/inference.ts";

interface Place {
  frames: number;
  digest: number;
}

/** FNV-1a's offset and prime, over token ids: uint32. */
const [noDigest, prime] = [0x811c9dc5, 0x01000193];

export class StreamCursor {
  /** By choice. */
  readonly #places: Place[];

  constructor(choices: number) {
    this.#places = Array.from({ length: choices }, () => ({ frames: 0, digest: noDigest }));
  }

  /** Throws an Error for text that is no cursor. */
  static parse(text: string): StreamCursor {
    const cursor = new StreamCursor(0);
    for (const part of text.split(",")) {
      const [, frames, digest] = /^(\d+):([0-9a-z]+)$/.exec(part) ?? [];
      if (frames === undefined) throw new Error("this is no cursor of a stream");
      cursor.#places.push({ frames: Number(frames), digest: Number.parseInt(digest, 36) });
    }
    return cursor;
  }

  get text(): string {
    return this.#places.map(({ frames, digest }) => `${frames}:${digest.toString(36)}`).join(",");
  }

  /** Counts the next frame of a choice. */
  add(choice: number, frame: Frame): void {
    const place = this.#places[choice];
    place.frames++;
    if (frame.type === "token") place.digest = Math.imul(place.digest ^ frame.tokenId, prime) >>> 0;
  }

  /** Of each choice the farther place of both. */
  farthest(other: StreamCursor): StreamCursor {
    const farthest = new StreamCursor(0);
    this.#places.forEach((place, choice) => {
      farthest.#places.push(other.isBeyond(this, choice) ? other.#places[choice] : place);
    });
    return farthest;
  }

  /** Whether the choice has come farther here than in `other`. */
  isBeyond(other: StreamCursor, choice: number): boolean {
    return this.#places[choice].frames > other.#places[choice].frames;
  }

  /** Whether the choice has come equally far in both, with other tokens. */
  differsFrom(other: StreamCursor, choice: number): boolean {
    const [here, there] = [this.#places[choice], other.#places[choice]];
    return here.frames === there.frames && here.digest !== there.digest;
  }
}
