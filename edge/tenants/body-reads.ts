/** Limits the bytes of bodies that an isolate reads at once for a key. Refuses further bodies, because requests cannot wake each other. */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Retry-After in seconds: a body is read within this time, unless the client is slow. */
const retryAfterSeconds = 1;

export class BodyReads {
  readonly #maxBytes: number;
  /** Bytes being read, by key id. The id "" stands for all keys together. */
  readonly #reading = new Map<string, number>();

  constructor(maxBytes: number = limits.bodyBytesAtOnce) {
    this.#maxBytes = maxBytes;
  }

  /** Counts `bytes` for the key until `read` settles. Throws rate_limited if the key's bytes would exceed the limit. */
  async during<T>(keyId: string, bytes: number, read: () => Promise<T>): Promise<T> {
    const before = this.#reading.get(keyId) ?? 0;
    if (before + bytes > this.#maxBytes) {
      const who = keyId === "" ? "Other requests are" : "This key is";
      const message = `${who} already sending ${before} bytes; ${bytes} more exceed the limit of ${this.#maxBytes} concurrent bytes.`;
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
