/** What every call passes before its handler: process name, load, signature, and the check of its body. */
import type { Context, MiddlewareHandler } from "hono";
import { z } from "zod";
import { sha256Hex } from "../../shared/bytes.ts";
import { type BackendLoad, loadHeader, loadText, nameHeader } from "../../shared/contracts/backend-headers.ts";
import { isSignedBy, parseSignature, type SigningKey, signingKey } from "../../shared/contracts/call-signature.ts";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { contractVersion } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Sends the name with every answer, refusals included. */
export function sendName(name: string): MiddlewareHandler {
  return async (context, next) => {
    await next();
    context.res.headers.set(nameHeader, name);
  };
}

/** Throws a ServiceError "misdirected" for a call that names another process. */
export function requireOwnName(name: string): MiddlewareHandler {
  return async ({ req }, next) => {
    const wanted = req.header(nameHeader);
    if (wanted !== undefined && wanted !== name) {
      throw new ServiceError("misdirected", `This process is ${name}; the call is for ${wanted.slice(0, 63)}.`);
    }
    await next();
  };
}

/** Sends the load with every answer, refusals included: what it is after the call has been handled. */
export function sendLoad(load: () => BackendLoad): MiddlewareHandler {
  return async (context, next) => {
    await next();
    context.res.headers.set(loadHeader, loadText(load()));
  };
}

/** Maximum age of a signature, in milliseconds, by the clocks of edge and backend. */
export const clockToleranceMs = 60_000;

export class CallVerifier {
  readonly #keys: Promise<SigningKey[]>;
  readonly #now: () => number;

  /** `now` in milliseconds since 1970. */
  constructor(secrets: readonly string[], now: () => number) {
    this.#keys = Promise.all(secrets.map(signingKey));
    this.#now = now;
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
    const apartMs = Math.abs(this.#now() - call.timeMs);
    if (apartMs > clockToleranceMs) {
      throw refused(`it was made ${apartMs} ms from now by this clock, the maximum is ${clockToleranceMs}`);
    }
    if (!(await isSignedBy(key, call))) throw refused("it does not match the call");
  }
}

/** For every call but probes: only the edge may make it. Runs before any of the body is read. */
export function requireSignature(verifier: CallVerifier): MiddlewareHandler {
  return async ({ req }, next) => {
    await verifier.verify(req.method, pathOf(req), req.header("authorization"), req.header(nameHeader) ?? null);
    await next();
  };
}

/** Behind `requireSignature` and the limit on bodies. */
export const requireSignedBody: MiddlewareHandler = async ({ req }, next) => {
  const signed = parseSignature(req.header("authorization") ?? "", req.method, pathOf(req));
  if (signed?.bodySha256 !== (await sha256Hex(new Uint8Array(await req.arrayBuffer())))) {
    throw refused("its body is another");
  }
  await next();
};

/**
 * For probes, which need no signature. A signature must be valid if there is one, so that the edge's probe finds a wrong
 * secret.
 */
export function checkSignature(verifier: CallVerifier): MiddlewareHandler {
  const check = requireSignature(verifier);
  return (context, next) => (context.req.header("authorization") === undefined ? next() : check(context, next));
}

function pathOf({ url }: Context["req"]): string {
  const { pathname, search } = new URL(url);
  return pathname + search;
}

function refused(why: string): ServiceError {
  return new ServiceError("bad_signature", `The call's signature is not accepted: ${why}.`);
}

/** The request's JSON body, checked. Throws a ServiceError that names the field at fault. */
export async function readBody<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const value = parseCallerJson(await context.req.text());
  const { version } = (value ?? {}) as { version?: unknown };
  if (typeof version === "number" && version !== contractVersion) {
    const message = `The call is of version ${version} of the contract, this backend of version ${contractVersion}.`;
    throw new ServiceError("version_mismatch", message);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ServiceError("invalid_request", z.prettifyError(parsed.error), { param: issue.path.join(".") || null });
}
