/** Calls the admin API of a started stack with the key that the stack's own commands find. */
import { readLocalRun } from "../../infra/local-run.ts";
import { type NewKey, newKeySchema } from "../../shared/contracts/admin.ts";

/** Returns the answer's JSON. Throws an Error with the answer's text unless its status is a success. */
export async function callAdmin(state: string, method: string, path: string, body?: object): Promise<unknown> {
  const { edge, adminKey } = readLocalRun(state)!;
  const response = await fetch(`${edge}/admin/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} was answered ${response.status}: ${text}`);
  return JSON.parse(text);
}

/** Creates a key of a tenant, with every scope unless `scopes` are given. */
export async function newKeyOf(state: string, tenant: string, scopes?: readonly string[]): Promise<NewKey> {
  return newKeySchema.parse(await callAdmin(state, "POST", "/keys", { tenant, ...(scopes && { scopes }) }));
}
