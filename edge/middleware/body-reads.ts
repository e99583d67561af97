/**
 * How many bytes of bodies each key has being read. Slow ones take no time of the isolate, but its memory, which all share.
 * One that comes on top is refused rather than made to wait: no request of a Worker can wake another. Of one isolate.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Bodies are read in less, but for slow callers. */
const retryAfterSeconds = 1;

export class BodyReads {
  readonly #most: number;
  /** Bytes by key; none of a key that has no body being read. */
  readonly #reading = new Map<string, number>();

  constructor(most: number = limits.bodyBytesAtOnce) {
    this.#most = most;
  }

  /** Does `read` while `bytes` of the key count as being read. Throws rate_limited where they do not fit. */
  async during<T>(keyId: string, bytes: number, read: () => Promise<T>): Promise<T> {
    const before = this.#reading.get(keyId) ?? 0;
    if (before + bytes > this.#most) {
      const message = `Bodies of this key with ${before} bytes are being read, and this one has up to ${bytes}; at once the maximum is ${this.#most}.`;
      throw new ServiceError("rate_limited", message, { retryAfterSeconds });
    }
    this.#reading.set(keyId, before + bytes);
    try {
      return await read();
    } finally {
      const left = this.#reading.get(keyId)! - bytes;
      if (left > 0) this.#reading.set(keyId, left);
      else this.#reading.delete(keyId);
    }
  }
}
