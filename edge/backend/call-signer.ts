/** Signs what we send to backends, which take it from nobody else. The form is `shared/contracts/call-signature.ts`. */
import { type SigningKey, signatureHeader, signingKey } from "../../shared/contracts/call-signature.ts";

/** The headers that make a call ours. */
export type SignCall = (method: string, path: string, body: Uint8Array) => Promise<Record<string, string>>;

export interface SignerParts {
  /** Milliseconds since 1970. */
  now(): number;
  /** 32 hex digits, never the same twice. */
  newNonce(): string;
}

/** The first secret signs; without any, calls go out as they are. */
export function createSigner([secret]: readonly string[], { now, newNonce }: SignerParts): SignCall {
  if (secret === undefined) return async () => ({});
  let key: Promise<SigningKey> | null = null;
  return async (method, path, body) => {
    key ??= signingKey(secret);
    const call = { method, path, body, timeMs: now(), nonce: newNonce() };
    return { authorization: await signatureHeader(await key, call) };
  };
}
