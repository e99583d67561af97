/**
 * How a call of the edge to a backend is signed: the one canonical form, and what both sides do with it.
 *
 *     authorization: Chameleon-HMAC-SHA256 key=ID,time=MS,body=SHA256,signature=HMAC
 *
 * The HMAC is over key, time, method, path, the body's hash and, if the call is for one process, its name, one line
 * each. As the hash is in the header, a caller without a secret is refused before its body is read. How old a
 * call may be is the backend's to decide (gpu-backend/http/middleware.ts).
 */
import { hexOf, sha256Hex } from "../bytes.ts";

const encoder = new TextEncoder();
const scheme = "Chameleon-HMAC-SHA256";
const headerPattern = new RegExp(
  `^${scheme} key=([0-9a-f]{16}),time=(\\d{1,15}),body=([0-9a-f]{64}),signature=([0-9a-f]{64})$`,
);
/** The longest header that can be one. */
export const signatureCharacters = 300;

/** A secret, prepared. Its id says which it is and nothing of what it is. */
export interface SigningKey {
  id: string;
  hmac: Awaited<ReturnType<typeof crypto.subtle.importKey>>;
}

/** What is signed. */
export interface Call {
  method: string;
  /** Of the URL, its query counted. */
  path: string;
  keyId: string;
  /** Since 1970. */
  timeMs: number;
  bodySha256: string;
  /** The process that the call is for (`nameHeader`); null if any process of the address may answer. */
  backendName: string | null;
}

export interface SignedCall extends Call {
  /** 64 hex digits. */
  signature: string;
}

const minSecretCharacters = 32;
const maxSecrets = 2;

/**
 * The secrets of a variable: the first signs, any of them opens, so that a new one can be brought to both sides before the
 * old one goes. None where it is empty. Throws an Error that names the variable and never repeats a secret.
 */
export function readSecrets(text: string | undefined, variable: string): string[] {
  if (!text?.trim()) return [];
  const secrets = text.split(",").map((secret) => secret.trim());
  if (secrets.length > maxSecrets) {
    throw new Error(`${variable} holds ${secrets.length} secrets; there may be ${maxSecrets}, separated by a comma`);
  }
  for (const [i, secret] of secrets.entries()) {
    if (secret.length >= minSecretCharacters && /^[\x21-\x7e]+$/.test(secret)) continue;
    throw new Error(
      `secret ${i + 1} of ${variable} has ${secret.length} characters; it must have at least ${minSecretCharacters}, of printable ASCII without blanks`,
    );
  }
  return secrets;
}

export async function signingKey(secret: string): Promise<SigningKey> {
  const hmac = await crypto.subtle.importKey("raw", encoder.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
    "verify",
  ]);
  const id = hexOf(await crypto.subtle.sign("HMAC", hmac, encoder.encode("chameleon key id"))).slice(0, 16);
  return { id, hmac };
}

/** The header of one call. */
export async function signatureHeader(
  key: SigningKey,
  { body, ...named }: Omit<Call, "keyId" | "bodySha256"> & { body: Uint8Array },
): Promise<string> {
  const call: Call = { ...named, keyId: key.id, bodySha256: await sha256Hex(body) };
  const signature = hexOf(await crypto.subtle.sign("HMAC", key.hmac, canonical(call)));
  return `${scheme} key=${key.id},time=${call.timeMs},body=${call.bodySha256},signature=${signature}`;
}

/** What a header claims of a call; null for anything that is no such header. */
export function parseSignature(
  header: string,
  method: string,
  path: string,
  backendName: string | null = null,
): SignedCall | null {
  const match = header.length <= signatureCharacters ? headerPattern.exec(header) : null;
  if (!match) return null;
  const [, keyId, time, bodySha256, signature] = match;
  return { method, path, keyId, timeMs: Number(time), bodySha256, backendName, signature };
}

/** Whether the holder of `key` signed this call; takes as long for any wrong signature. */
export function isSignedBy({ hmac }: SigningKey, call: SignedCall): Promise<boolean> {
  const signature = Uint8Array.from(call.signature.match(/../g)!, (digits) => Number.parseInt(digits, 16));
  return crypto.subtle.verify("HMAC", hmac, signature, canonical(call));
}

/** The text that is signed. No field has a line break, so no two calls share a text. */
function canonical({ keyId, timeMs, method, path, bodySha256, backendName }: Call): Uint8Array {
  const lines = [scheme, keyId, timeMs, method, path, bodySha256];
  return encoder.encode([...lines, ...(backendName === null ? [] : [backendName])].join("\n"));
}

/** Returns the headers that sign a call, for the process of this name, or for any of the address. */
export type SignCall = (
  method: string,
  path: string,
  body: Uint8Array,
  backendName?: string | null,
) => Promise<Record<string, string>>;

/** Signs with the first secret; without secrets, calls are not signed. `now` in milliseconds since 1970. */
export function createSigner([secret]: readonly string[], now: () => number): SignCall {
  if (secret === undefined) return async () => ({});
  let key: Promise<SigningKey> | null = null;
  return async (method, path, body, backendName = null) => {
    key ??= signingKey(secret);
    return { authorization: await signatureHeader(await key, { method, path, body, timeMs: now(), backendName }) };
  };
}
