import fc from "fast-check";
import { expect, test } from "vitest";
import { FailedKeys, networkOf } from "../../../edge/tenants/failed-keys.ts";

test.each([
  ["2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001"],
  ["2001:db8::1", "2001:DB8:0:0:ffff:ffff:ffff:ffff"],
  ["2001:db8::1", "2001:db8:0:0::"],
  ["::1", "0:0:0:0:0:0:0:1"],
  ["fe80::1%eth0", "fe80::2"],
  ["2001:db8:1:2:3::1", "2001:db8:1:2::"],
  ["::ffff:192.0.2.1", "192.0.2.1"],
  ["::ffff:c000:201", "192.0.2.1"],
  ["0:0:0:0:0:FFFF:192.0.2.1", "192.0.2.1"],
])("%s and %s are one network", (a, b) => {
  expect(networkOf(a)).toBe(networkOf(b));
});

test.each([
  ["2001:db8::1", "2001:db8:0:1::1"],
  ["2001:db8::1", "2001:db8:1::1"],
  ["::1", "::1:0:0:0:1"],
  ["::ffff:192.0.2.1", "::ffff:192.0.2.2"],
  ["192.0.2.1", "192.0.2.2"],
  ["64:ff9b::192.0.2.1", "192.0.2.1"],
  ["", "192.0.2.1"],
])("%s and %s are two", (a, b) => {
  expect(networkOf(a)).not.toBe(networkOf(b));
});

test("text that is no address is its own network", () => {
  for (const text of ["", "unknown", "1:2", "::1::", "1:2:3:4:5:6:7:8:9", "g::1", ":1:2:3:4:5:6:7:8", "12345::"]) {
    expect(networkOf(text)).toBe(text);
  }
});

test("every way to write the addresses of a /64 gives its network", () => {
  const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
  const address = fc.array(group, { minLength: 8, maxLength: 8 });
  const writing = fc.record({ from: fc.nat(7), to: fc.nat(8), pad: fc.boolean(), upper: fc.boolean() });
  fc.assert(
    fc.property(address, address, writing, (one, other, { from, to, pad, upper }) => {
      const plain = [...one.slice(0, 4), ...other.slice(4)].map((value) => value.toString(16)).join(":");
      const parts = one.map((value) => value.toString(16).padStart(pad ? 4 : 1, "0"));
      const isZero = to > from && one.slice(from, to).every((value) => value === 0);
      const written = isZero ? `${parts.slice(0, from).join(":")}::${parts.slice(to).join(":")}` : parts.join(":");
      fc.pre(!(one.slice(0, 4).every((value) => value === 0) && (one[4] === 0 || other[4] === 0)));
      expect(networkOf(upper ? written.toUpperCase() : written)).toBe(networkOf(plain));
    }),
  );
});

test("failures count for a network, until its window ends", () => {
  const failed = new FailedKeys();
  for (let i = 0; i < 30; i++) failed.failed(`2001:db8::${i.toString(16)}`, 1000);
  expect(failed.waitMs("2001:0db8:0:0:1::", 2000)).toBe(59_000);
  expect(failed.waitMs("2001:db8:0:1::", 2000)).toBe(0);
  expect(failed.waitMs("2001:db8::1", 61_000)).toBe(0);
});
