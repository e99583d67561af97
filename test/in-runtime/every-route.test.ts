/** Properties of every route, by the table of operations that the API document is made of. */
import { describe, expect, test } from "vitest";
import { operations } from "../../infra/openapi/operations.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { expectError } from "./answers.ts";
import { accessWith, testApp } from "./harness.ts";

const paths = [...new Set(operations.map(({ path }) => path))];
const urlOf = (path: string) => path.replace(/\{\w+\}/, path.includes("/keys/") ? "0123456789abcdef" : "gpt2");
const withKey = operations.filter(({ scope }) => scope !== undefined);
const withBody = operations.filter(({ request }) => request && !request.isForm);
const named = (list: typeof operations) => list.map(({ method, path }) => [method.toUpperCase(), path] as const);

function expectHeaders({ headers }: Response): void {
  expect(headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
  expect(headers.get("server-timing")).toMatch(/^total;dur=\d+\.\d\d$/);
  expect(headers.get("x-content-type-options")).toBe("nosniff");
}

const opensAll = { keys: { accessOf: async () => accessWith() }, requireAdmin: async () => undefined };

test.each(paths)("%s takes its own methods alone, and names them", async (path) => {
  const methods = operations.filter((one) => one.path === path).map(({ method }) => method.toUpperCase());
  const allowed = methods.map((method) => (method === "GET" ? "GET, HEAD" : method)).join(", ");
  for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
    if (methods.includes(method)) continue;
    const response = await testApp(opensAll).request(urlOf(path), { method });
    expect([method, response.headers.get("allow")]).toEqual([method, allowed]);
    expectHeaders(response);
    await expectError(response, { status: 405, code: "method_not_allowed" });
  }
});

test.each(named(withKey))("%s %s wants a key", async (method, path) => {
  const { app } = testApp();
  const response = await app.request(`http://edge${urlOf(path)}`, { method });
  expectHeaders(response);
  await expectError(response, { status: 401, code: "invalid_api_key" });
});

describe.each(named(withBody))("%s %s", (method, path) => {
  const mostBytes = path.startsWith("/v1/adapters") ? limits.documentBodyBytes : limits.bodyBytes;
  const cases: [string, number, string | null, string, string?][] = [
    ["no JSON", 400, null, "{"],
    ["a list", 400, null, "[]"],
    ["another content type", 415, "unsupported_media_type", "{}", "text/css"],
    ["a body too large", 413, "body_too_large", " ".repeat(mostBytes + 1)],
  ];
  test.each(cases)("%s: %d", async (_, status, code, body, type = "application/json") => {
    const response = await testApp().request(urlOf(path), { method, body, headers: { "content-type": type } });
    expectHeaders(response);
    await expectError(response, { status, code, type: "invalid_request_error" });
  });
});

test("HEAD answers as GET does, without a body", async () => {
  const ids = new Set<string | null>();
  const simple = operations.filter(({ method, parameters }) => method === "get" && !parameters);
  for (const { path } of simple) {
    const { request } = testApp({ readiness: async () => [], usage: async () => [] });
    const [got, head] = await Promise.all([request(path), request(path, { method: "HEAD" })]);
    expect([path, head.status, await head.text()]).toEqual([path, got.status, ""]);
    expectHeaders(head);
    ids.add(head.headers.get("x-request-id"));
  }
  expect(ids.size).toBe(simple.length);
});
