/** Signs calls to backends. The format is in `shared/contracts/call-signature.ts`. */
import { type SigningKey, signatureHeader, signingKey } from "../../shared/contracts/call-signature.ts";

/** Returns the headers that sign a call, for the process of this name, or for any of the address. */
export type SignCall = (
  method: string,
  path: string,
  body: Uint8Array,
  backendName?: string | null,
) => Promise<Record<string, string>>;

export interface SignerParts {
  /** Milliseconds since 1970. */
  now(): number;
  /** 32 hex digits, never the same twice. */
  newNonce(): string;
}

/** Signs with the first secret; without secrets, calls are not signed. */
export function createSigner([secret]: readonly string[], { now, newNonce }: SignerParts): SignCall {
  if (secret === undefined) return async () => ({});
  let key: Promise<SigningKey> | null = null;
  return async (method, path, body, backendName) => {
    key ??= signingKey(secret);
    const call = { method, path, body, timeMs: now(), nonce: newNonce(), backendName };
    return { authorization: await signatureHeader(await key, call) };
  };
}
