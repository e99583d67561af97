import type { Context, MiddlewareHandler } from "hono";
import { z } from "zod";
import { sha256Hex } from "../../shared/bytes.ts";
import { type BackendLoad, loadHeader, loadText, nameHeader } from "../../shared/contracts/backend-headers.ts";
import { isSignedBy, parseSignature, signingKey } from "../../shared/contracts/call-signature.ts";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { contractVersion } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Sends name and load with every answer, even a refusal. The load is read after the call was handled. */
export function sendState(name: string, load: () => BackendLoad): MiddlewareHandler {
  return async (context, next) => {
    await next();
    context.res.headers.set(nameHeader, name);
    context.res.headers.set(loadHeader, loadText(load()));
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

/** Maximum difference between a signature's time and this process's clock. */
export const clockToleranceMs = 60_000;

export type VerifyCall = ReturnType<typeof callVerifier>;

/** Returns a function that checks a call's signature and throws a ServiceError "bad_signature". `now` returns Unix milliseconds. */
export function callVerifier(secrets: readonly string[], now: () => number) {
  const known = Promise.all(secrets.map(signingKey));
  return async (method: string, path: string, header: string | undefined, backendName: string | null = null) => {
    if (!header) throw refused("it has none, and a secret is set here (BACKEND_SECRETS)");
    const call = parseSignature(header, method, path, backendName);
    if (!call) throw refused("its Authorization header is not of the form of shared/contracts/call-signature.ts");
    const keys = await known;
    const key = keys.find(({ id }) => id === call.keyId);
    if (!key) throw refused(`its key is ${call.keyId}, known are ${keys.map(({ id }) => id).join(" and ")}`);
    const apartMs = Math.abs(now() - call.timeMs);
    if (apartMs > clockToleranceMs) {
      throw refused(`it was made ${apartMs} ms from now by this clock, the maximum is ${clockToleranceMs}`);
    }
    if (!(await isSignedBy(key, call))) throw refused("it does not match the call");
  };
}

/** Checks the signature before the body is read. */
export function requireSignature(verify: VerifyCall): MiddlewareHandler {
  return async ({ req }, next) => {
    await verify(req.method, pathOf(req), req.header("authorization"), req.header(nameHeader) ?? null);
    await next();
  };
}

/** Must run after `requireSignature` and the limit on bodies. */
export const requireSignedBody: MiddlewareHandler = async ({ req }, next) => {
  const signed = parseSignature(req.header("authorization") ?? "", req.method, pathOf(req));
  if (signed?.bodySha256 !== (await sha256Hex(new Uint8Array(await req.arrayBuffer())))) {
    throw refused("its body is another");
  }
  await next();
};

/** Checks the signature of a call that has one, so that the edge's readiness check detects a wrong secret. */
export function checkSignature(verify: VerifyCall): MiddlewareHandler {
  const check = requireSignature(verify);
  return (context, next) => (context.req.header("authorization") === undefined ? next() : check(context, next));
}

function pathOf({ url }: Context["req"]): string {
  const { pathname, search } = new URL(url);
  return pathname + search;
}

function refused(why: string): ServiceError {
  return new ServiceError("bad_signature", `The call's signature is not accepted: ${why}.`);
}

/** Throws a ServiceError that names the faulty field. */
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
