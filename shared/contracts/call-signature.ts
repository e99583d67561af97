/**
 * Signatures of the edge's calls to backends.
 *
 *     authorization: Chameleon-HMAC-SHA256 key=ID,time=MS,body=SHA256,signature=HMAC
 *
 * The HMAC covers, each on a line, the scheme, key id, time, method, path, body hash and, if given, the name of the backend process. The
 * header has the body hash, so that a backend can refuse a call before reading the body. gpu-backend/http/middleware.ts limits the age of
 * calls.
 */
import { hexOf, sha256Hex } from "../bytes.ts";

const encoder = new TextEncoder();
const scheme = "Chameleon-HMAC-SHA256";
const headerPattern = new RegExp(
  `^${scheme} key=([0-9a-f]{16}),time=(\\d{1,15}),body=([0-9a-f]{64}),signature=([0-9a-f]{64})$`,
);
/** Maximum characters of a signature header. A longer header is refused without being parsed. */
export const signatureCharacters = 300;

type SigningKey = Awaited<ReturnType<typeof signingKey>>;
type SignedCall = NonNullable<ReturnType<typeof parseSignature>>;

const minSecretCharacters = 32;
const maxSecrets = 2;

/** The edge signs with the first secret; backends accept every secret. Throws an Error that names the variable, never a secret. */
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

/** The key's id is an HMAC, which reveals nothing about the secret. */
export async function signingKey(secret: string) {
  const hmac = await crypto.subtle.importKey("raw", encoder.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
    "verify",
  ]);
  const id = hexOf(await crypto.subtle.sign("HMAC", hmac, encoder.encode("chameleon key id"))).slice(0, 16);
  return { id, hmac };
}

/** `path` includes the query. `backendName`: value of the call's `nameHeader`. Returns null for a malformed header. */
export function parseSignature(header: string, method: string, path: string, backendName: string | null = null) {
  const match = header.length <= signatureCharacters ? headerPattern.exec(header) : null;
  if (!match) return null;
  const [, keyId, time, bodySha256, signature] = match;
  return { method, path, keyId, timeMs: Number(time), bodySha256, backendName, signature };
}

/** True if the call was signed with `key`. Takes the same time for every wrong signature. */
export function isSignedBy({ hmac }: SigningKey, call: SignedCall): Promise<boolean> {
  const signature = Uint8Array.from(call.signature.match(/../g)!, (digits) => Number.parseInt(digits, 16));
  return crypto.subtle.verify("HMAC", hmac, signature, canonical(call));
}

/** The text to sign. No field can hold a line break, so different calls have different texts. */
function canonical({ backendName, ...call }: Omit<SignedCall, "signature">): Uint8Array {
  const lines = [scheme, call.keyId, call.timeMs, call.method, call.path, call.bodySha256];
  return encoder.encode([...lines, ...(backendName === null ? [] : [backendName])].join("\n"));
}

/** Returns a function that makes a call's headers; without secrets, there are no headers. `now`: Unix milliseconds. */
export function createSigner([secret]: readonly string[], now: () => number) {
  let key: Promise<SigningKey> | null = null;
  return async (
    method: string,
    path: string,
    body: Uint8Array,
    backendName: string | null = null,
  ): Promise<Record<string, string>> => {
    if (secret === undefined) return {};
    key ??= signingKey(secret);
    const [{ id, hmac }, bodySha256] = await Promise.all([key, sha256Hex(body)]);
    const call = { method, path, keyId: id, timeMs: now(), bodySha256, backendName };
    const signature = hexOf(await crypto.subtle.sign("HMAC", hmac, canonical(call)));
    return { authorization: `${scheme} key=${id},time=${call.timeMs},body=${bodySha256},signature=${signature}` };
  };
}
export type SignCall = ReturnType<typeof createSigner>;
