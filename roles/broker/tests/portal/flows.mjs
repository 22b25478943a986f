// What somebody does in his first hour, in a real browser.

import { writeFileSync } from "node:fs";

import { totp } from "../../../../testing/browser/totp.mjs";

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

export default async ({ browser, args, picture }) => {
  const person = async () => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1360, height: 900 } });
    return context.newPage();
  };
  const ada = await person();
  await ada.goto(args.setUp);
  await ada.getByLabel("Your name").fill("Ada Lovelace");
  await ada.getByLabel("E-mail").fill("ada@example.org");
  await ada.getByLabel("Password").fill(args.password);
  await ada.getByRole("button", { name: "Create and sign in" }).click();
  await ada.getByText("No device yet").or(ada.getByRole("heading", { name: "Devices" })).first().waitFor();

  // A second factor, and signing in with it.
  await ada.goto(`${args.url}/profile/totp`);
  const secret = await ada.locator(".copy code").innerText();
  await ada.getByLabel("Your password").fill(args.password);
  await ada.getByRole("textbox", { name: "Code" }).fill(totp(secret));
  await ada.getByRole("button", { name: "Turn on" }).click();
  await ada.getByRole("heading", { name: "Your recovery codes" }).waitFor();
  const recovery = (await ada.locator("pre code").innerText()).trim().split("\n");
  expect(recovery.length === 10, "ten recovery codes");
  await ada.goto(`${args.url}/profile`);
  await ada.screenshot({ path: picture("portal-profile-second-factor"), fullPage: true });
  await ada.getByRole("button", { name: "Ada Lovelace" }).click();
  await ada.getByRole("button", { name: "Sign out" }).last().click();
  await ada.waitForURL("**/sign-in");
  await ada.goto(`${args.url}/a/home/devices`);
  await ada.getByLabel("E-mail").fill("ada@example.org");
  await ada.getByLabel("Password").fill(args.password);
  await ada.getByRole("button", { name: "Sign in" }).click();
  await ada.getByRole("textbox", { name: "Code" }).fill("000000");
  await ada.getByRole("button", { name: "Continue" }).click();
  await ada.locator(".error").waitFor();
  await ada.screenshot({ path: picture("portal-code-wrong"), fullPage: true });
  await ada.getByRole("textbox", { name: "Code" }).fill(recovery[0]);
  await ada.getByRole("button", { name: "Continue" }).click();
  await ada.waitForURL("**/a/home/devices");

  // A device's state is on the open page without a reload.
  await ada.evaluate(() => (window.mark = "not reloaded"));
  const row = ada.locator("tr", { hasText: "late-comer" });
  writeFileSync(`${args.signals}/device`, "");
  await row.waitFor();
  await row.getByText("Online").waitFor();
  expect((await ada.evaluate(() => window.mark)) === "not reloaded", "the page was not reloaded");

  // Search as one types.
  await ada.getByRole("searchbox").fill("late");
  await ada.waitForURL("**q=late**");
  expect((await ada.locator("tbody tr").count()) === 1, "one device is found");

  // Rename; a static endpoint that is wrong, and right.
  // By its address: the row under the pointer may be replaced just then, as the search goes on.
  await ada.goto(new URL(await row.getByRole("link", { name: "late-comer" }).getAttribute("href"), args.url).href);
  await ada.getByLabel("Name", { exact: true }).fill("Early Bird");
  await ada.getByRole("button", { name: "Rename" }).click();
  await ada.getByRole("heading", { name: "early-bird" }).waitFor();
  await ada.getByText("Advanced").click();
  await ada.getByLabel("Static Endpoint").fill("203.0.113.9");
  await ada.getByRole("button", { name: "Save endpoint" }).click();
  await ada.getByText("The port is missing", { exact: false }).waitFor();
  await ada.screenshot({ path: picture("portal-endpoint-wrong"), fullPage: true });
  await ada.getByLabel("Static Endpoint").fill("203.0.113.9:51820");
  await ada.getByRole("button", { name: "Save endpoint" }).click();
  await ada.getByText("All devices will try", { exact: false }).waitFor();

  // It becomes the connection relay.
  await ada.goto(`${args.url}/a/home/settings`);
  await ada.getByLabel("Add to the list").selectOption({ label: "early-bird" });
  await ada.getByRole("button", { name: "Add", exact: true }).click();
  await ada.getByText("Saved.", { exact: false }).waitFor();
  expect((await ada.locator(".relay-list li").count()) === 1, "one connection relay");

  // Somebody is invited, and comes.
  await ada.goto(`${args.url}/a/home/users`);
  await ada.getByLabel("E-mail").fill("ben@example.org");
  await ada.getByRole("button", { name: "Create invitation" }).click();
  const link = (await ada.locator("pre code").innerText()).trim();
  const ben = await person();
  await ben.goto(link);
  await ben.getByLabel("Your name").fill("Ben");
  await ben.getByLabel("Password").fill(args.password);
  await ben.getByRole("button", { name: "Create and join" }).click();
  await ben.waitForURL("**/a/home/devices");
  expect((await ben.getByRole("link", { name: "Users" }).count()) === 0, "a member doesn't run the account");

  // All of it is in Activity.
  await ada.goto(`${args.url}/a/home/activity`);
  await ada.getByText("Device renamed").first().waitFor();
  await ada.screenshot({ path: picture("portal-activity-full"), fullPage: true });

  // Whose session is ended is sent to sign in, from the page that he looks at.
  await ada.goto(`${args.url}/a/home/users`);
  await ada.locator("tr", { hasText: "ben@example.org" }).getByRole("button", { name: "Remove" }).click();
  await ada.locator(".dialog:popover-open").getByRole("button", { name: "Remove" }).click();
  await ada.getByText("Removed from the account.").waitFor();
  await ben.getByRole("heading", { name: "Not found" }).waitFor({ timeout: 20000 });
  return "done";
};
