/**
 * Whether a call comes from the edge: signed with one of our secrets, lately, and not seen before. Pure but for WebCrypto:
 * the clock is a parameter. Whoever has no secret is told so before any of its body is read.
 */
import {
  isSignedBy,
  parseSignature,
  type SignedCall,
  type SigningKey,
  signingKey,
} from "../../shared/contracts/call-signature.ts";
import { ServiceError } from "../../shared/errors.ts";
import { NonceMemory } from "./nonce-memory.ts";

/** How far the clocks of edge and backend may be apart, on top of the way. */
export const clockToleranceMs = 60_000;
/** At 2000 calls a second all that came in two tolerances; beyond that old calls are refused sooner. Some 30 MB. */
const rememberedNonces = 262_144;

export class CallVerifier {
  readonly #keys: Promise<SigningKey[]>;
  readonly #now: () => number;
  readonly #nonces: NonceMemory;

  /** `now` in milliseconds since 1970. */
  constructor(secrets: readonly string[], now: () => number, nonces = new NonceMemory(rememberedNonces)) {
    this.#keys = Promise.all(secrets.map(signingKey));
    this.#now = now;
    this.#nonces = nonces;
  }

  /** Throws a ServiceError "bad_signature" that says what is wrong. */
  async verify(
    method: string,
    path: string,
    header: string | undefined,
    backendName: string | null = null,
  ): Promise<void> {
    if (!header) throw refused("it has none, and a secret is set here (BACKEND_SECRETS)");
    const call = parseSignature(header, method, path, backendName);
    if (!call) throw refused("its Authorization header is not of the form of shared/contracts/call-signature.ts");
    const keys = await this.#keys;
    const key = keys.find(({ id }) => id === call.keyId);
    if (!key) throw refused(`its key is ${call.keyId}, known are ${keys.map(({ id }) => id).join(" and ")}`);
    const nowMs = this.#now();
    const apartMs = Math.abs(nowMs - call.timeMs);
    if (apartMs > clockToleranceMs) {
      throw refused(`it was made ${apartMs} ms from now by this clock, the maximum is ${clockToleranceMs}`);
    }
    if (!(await isSignedBy(key, call))) throw refused("it does not match the call");
    this.#remember(call, nowMs);
  }

  #remember({ nonce, timeMs }: SignedCall, nowMs: number): void {
    const outcome = this.#nonces.add(nonce, timeMs, nowMs - clockToleranceMs);
    if (outcome === "seen") throw refused("it was used before");
    if (outcome === "too old") throw refused("it is older than what is remembered of used ones");
  }
}

function refused(why: string): ServiceError {
  return new ServiceError("bad_signature", `The call's signature is not accepted: ${why}.`);
}
