/** Which client a request comes from: by the connection, or by what a trusted proxy appended, and never by what a client sent. */
import { expect, test } from "vitest";
import { clientOf } from "../../../edge/platform/client-address.ts";

const headers = new Headers({ "x-forwarded-for": "198.51.100.1, 203.0.113.9", "x-forwarded-proto": "http,https" });

test.each([
  ["192.0.2.7:4711", "192.0.2.7"],
  ["[::ffff:192.0.2.7]:4711", "192.0.2.7"],
  ["[2001:DB8::1]:4711", "2001:db8::1"],
  ["[::1]:4711", "::1"],
])("%s connected", (clientIp, address) => {
  expect(clientOf({ clientIp }, headers, false)).toEqual({ address, scheme: null });
  // The last address is the one that the proxy appended.
  expect(clientOf({ clientIp }, headers, true)).toEqual({ address: "203.0.113.9", scheme: "https" });
});

test.each(["", "unknown", "203.0.113.9, ", "203.0.113.9, _hidden", "1.2.3", "a:b:x"])(
  "a proxy that names no address (%j) is itself the client",
  (forwarded) => {
    const sent = new Headers({ "x-forwarded-for": forwarded, "x-forwarded-proto": "ftp" });
    expect(clientOf({ clientIp: "192.0.2.7:1" }, sent, true)).toEqual({ address: "192.0.2.7", scheme: null });
  },
);

test("an unknown connection is this machine's", () => {
  expect(clientOf(undefined, new Headers(), true)).toEqual({ address: "127.0.0.1", scheme: null });
});
