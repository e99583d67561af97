import fc from "fast-check";
import { beforeEach, expect, test } from "vitest";
import { callVerifier, clockToleranceMs } from "../../../../gpu-backend/http/middleware.ts";
import { sha256Hex } from "../../../../shared/bytes.ts";
import { createSigner, parseSignature, readSecrets } from "../../../../shared/contracts/call-signature.ts";

const [one, other, third] = ["1", "2", "3"].map((digit) => digit.repeat(32));
const body = new TextEncoder().encode('{"prompt":"x"}');
const post = ["POST", "/v1/batches", body] as const;
let nowMs: number;
const signed = async (secret: string, ...[method, path, bytes]: Parameters<ReturnType<typeof createSigner>>) =>
  (await createSigner([secret], () => nowMs)(method, path, bytes)).authorization;
const verifierOf = (...secrets: string[]) => callVerifier(secrets, () => nowMs);
const badSignature = (why: string) =>
  expect.objectContaining({ kind: "bad_signature", message: expect.stringContaining(why) });

beforeEach(() => {
  nowMs = 1_800_000_000_000;
});

test("a call that the edge signed is taken, and its body is known by its hash", async () => {
  const header = await signed(one, ...post);
  await verifierOf(one)("POST", "/v1/batches", header);
  expect(parseSignature(header, "POST", "/v1/batches")?.bodySha256).toBe(await sha256Hex(body));
});

test("a call is taken with either secret while they are replaced, and no longer once the old one is gone", async () => {
  const verifier = verifierOf(other, one);
  await verifier("POST", "/v1/batches", await signed(one, ...post));
  await verifier("POST", "/v1/batches", await signed(other, ...post));
  const old = await signed(one, ...post);
  await expect(verifierOf(other)("POST", "/v1/batches", old)).rejects.toEqual(badSignature("known are"));
  await expect(verifierOf(other, third)("POST", "/v1/batches", old)).rejects.toEqual(badSignature(" and "));
});

test.each([
  [undefined, "BACKEND_SECRETS"],
  ["", "BACKEND_SECRETS"],
  ["Bearer sk-x", "form"],
  [`Chameleon-HMAC-SHA256 ${"a".repeat(10_000)}`, "form"],
])("a call with the header %j is refused", async (header, why) => {
  await expect(verifierOf(one)("POST", "/v1/batches", header)).rejects.toEqual(badSignature(why));
});

test("a call is refused where anything of it was changed", async () => {
  const verifier = verifierOf(one);
  const header = await signed(one, ...post);
  const verify = (changed: string, method = "POST", path = "/v1/batches") => verifier(method, path, changed);
  await expect(verify(header, "PUT")).rejects.toEqual(badSignature("match"));
  await expect(verify(header, "POST", "/v1/adapters")).rejects.toEqual(badSignature("match"));
  await expect(verify(header, "POST", "/v1/batches?x=1")).rejects.toEqual(badSignature("match"));
  const start = header.indexOf("key=");
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: start, max: header.length - 1 }),
      fc.constantFrom(..."0123456789abcdef"),
      async (at, digit) => {
        if (header[at] === digit) return;
        await expect(verify(header.slice(0, at) + digit + header.slice(at + 1))).rejects.toMatchObject({
          kind: "bad_signature",
        });
      },
    ),
    { numRuns: 300 },
  );
  await verify(header);
});

test.each([-1, 1])("a call is taken up to the tolerance of clocks and not beyond (%i)", async (sign) => {
  const madeMs = nowMs;
  const header = await signed(one, ...post);
  nowMs = madeMs + sign * clockToleranceMs;
  const verifier = verifierOf(one);
  await verifier("POST", "/v1/batches", header);
  nowMs += sign;
  const why = `${clockToleranceMs + 1} ms from now`;
  await expect(verifier("POST", "/v1/batches", header)).rejects.toEqual(badSignature(why));
});

test("the variable of secrets holds none, one, or two", () => {
  expect([readSecrets(undefined, "X"), readSecrets("", "X"), readSecrets(" ", "X")]).toEqual([[], [], []]);
  expect(readSecrets(one, "X")).toEqual([one]);
  expect(readSecrets(`${one}, ${other}`, "X")).toEqual([one, other]);
});

const unfit = ["short", `${one},short`, `${one},${other},${third}`, `${one},`, "ä".repeat(40), "a b".repeat(20)];
test.each(unfit)("the variable of secrets is refused by its name, and not repeated: %j", (text) => {
  expect(() => readSecrets(text, "BACKEND_SECRETS")).toThrow(/BACKEND_SECRETS/);
  for (const part of text.split(",").filter(Boolean)) {
    expect(() => readSecrets(text, "BACKEND_SECRETS")).not.toThrow(part);
  }
});
