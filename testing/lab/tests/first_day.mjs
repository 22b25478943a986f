// An owner's first day: she is invited, gets a second factor, invites somebody; lets a device in that
// shows a code, gives it a name and an endpoint; names a connection relay; and cuts a running ping by a
// policy.

import { existsSync, writeFileSync } from "node:fs";

import { totp } from "../../browser/totp.mjs";

const PASSWORD = "correct horse battery staple";

export default async ({ browser, args, picture }) => {
  const complaints = [];
  const person = async (options = {}) => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1360, height: 900 }, ...options });
    const page = await context.newPage();
    page.on("pageerror", (error) => complaints.push(`${error}`));
    page.on("dialog", (dialog) => dialog.accept());
    return page;
  };
  const signal = (name) => writeFileSync(`${args.signals}/${name}`, "");
  const told = async (page, name) => {
    while (!existsSync(`${args.signals}/${name}`)) await page.waitForTimeout(50);
  };
  const ada = await person();
  const look = (name, page = ada) => page.screenshot({ path: picture(`first-day-${name}`), fullPage: true });
  await ada.goto(args.invitation);
  await ada.getByLabel("Your name").fill("Ada Lovelace");
  await ada.getByLabel("Password").fill(PASSWORD);
  await ada.getByRole("button", { name: "Create and join" }).click();
  await ada.getByRole("row", { name: "laptop" }).waitFor();
  await look("1-devices");

  await ada.goto(`${args.url}/profile/totp`);
  const secret = await ada.locator(".copy code").innerText();
  await ada.getByLabel("Your password").fill(PASSWORD);
  await ada.getByRole("textbox", { name: "Code" }).fill(totp(secret, Date.now()));
  await ada.getByRole("button", { name: "Turn on" }).click();
  await ada.getByRole("heading", { name: "Your recovery codes" }).waitFor();
  await ada.goto(`${args.url}/profile`);
  await ada.getByRole("button", { name: "Ada Lovelace" }).click();
  await ada.getByRole("button", { name: "Sign out" }).last().click();
  await ada.waitForURL("**/sign-in");
  await ada.getByLabel("E-mail").fill("ada@example.org");
  await ada.getByLabel("Password").fill(PASSWORD);
  await ada.getByRole("button", { name: "Sign in" }).click();
  // A code is good once: the next one is, a step early.
  await ada.getByRole("textbox", { name: "Code" }).fill(totp(secret, Date.now() + 30000));
  await look("2-second-factor");
  await ada.getByRole("button", { name: "Continue" }).click();
  await ada.waitForURL("**/a/home/devices");

  await ada.goto(`${args.url}/a/home/users`);
  await ada.getByLabel("E-mail").fill("ben@example.org");
  await ada.getByRole("button", { name: "Create invitation" }).click();
  const link = (await ada.locator("pre code").innerText()).trim();
  await look("3-invitation");
  const ben = await person();
  await ben.goto(link);
  await ben.getByLabel("Your name").fill("Ben");
  await ben.getByLabel("Password").fill(PASSWORD);
  await ben.getByRole("button", { name: "Create and join" }).click();
  await ben.waitForURL("**/a/home/devices");

  // A device shows a code, and is let in.
  await ada.goto(`${args.url}/join/request?code=${args.code}`);
  await ada.getByText("Kitchen Pi").waitFor();
  await look("4-let-in");
  await ada.getByRole("button", { name: "Let it in" }).click();
  await ada.waitForURL("**/a/home/devices");
  const row = ada.locator("tr", { hasText: "kitchen-pi" });
  await row.getByText("Online").waitFor();
  await look("5-joined");

  await row.getByRole("link", { name: "kitchen-pi" }).click();
  await ada.getByLabel("Name", { exact: true }).fill("Pantry");
  await ada.getByRole("button", { name: "Rename" }).click();
  await ada.getByRole("heading", { name: "pantry" }).waitFor();
  await ada.getByText("Advanced").click();
  await ada.getByLabel("Static Endpoint").fill("203.0.113.9:51820");
  await ada.getByRole("button", { name: "Save endpoint" }).click();
  await ada.getByText("All devices will try", { exact: false }).waitFor();
  await look("6-static-endpoint");
  await ada.getByText("Advanced").click();
  await ada.getByRole("button", { name: "Check that it is reached" }).click();
  await ada.getByText("Not reached: nothing came back from 203.0.113.9:51820", { exact: false }).waitFor();
  await look("6-not-reached");
  await ada.goto(`${args.url}/a/home/settings`);
  await ada.getByLabel("Add to the list").selectOption({ label: "server" });
  await ada.getByRole("button", { name: "Add", exact: true }).click();
  await ada.getByText("Saved.", { exact: false }).waitFor();
  await look("7-connection-relay");

  // The laptop pings the server: without the rule it doesn't, with one it does again.
  await ada.goto(`${args.url}/a/home/access`);
  await ada.getByRole("button", { name: "Remove rule everybody reaches everything" }).click();
  await ada.getByText("lose access, none gains it.", { exact: false }).waitFor();
  await look("8-who-loses-access");
  await ada.getByRole("button", { name: "Save" }).click();
  await ada.getByText("Version 1 is in force. All devices", { exact: false }).waitFor();
  signal("cut");
  await told(ada, "is-cut");
  await ada.getByRole("button", { name: "Add a rule" }).click();
  await ada.getByLabel("Add to: From").selectOption("device:laptop");
  await ada.locator("#from").and(ada.locator("[value='device:laptop']")).waitFor();
  await ada.getByLabel("Add to: To").selectOption("*");
  await ada.locator("#to").and(ada.locator("[value='*']")).waitFor();
  await ada.getByRole("button", { name: "Add", exact: true }).click();
  await ada.getByText("gain access, none loses it.", { exact: false }).waitFor();
  await look("9-who-gains-access");
  await ada.getByRole("button", { name: "Save" }).click();
  await ada.getByText("Version 2 is in force. All devices", { exact: false }).waitFor();
  signal("allowed");
  await told(ada, "flows");

  await ada.goto(`${args.url}/a/home/activity`);
  await ada.getByText("Policy changed").first().waitFor();
  await ada.getByText("Device renamed").first().waitFor();
  await look("10-activity");
  const storageState = await ada.context().storageState();
  const phone = await person({ storageState, viewport: { width: 390, height: 844 }, hasTouch: true });
  for (const page of ["devices", "access", "activity", "map"]) {
    await phone.goto(`${args.url}/a/home/${page}`);
    await look(`11-phone-${page}`, phone);
    const wide = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) complaints.push(`${page} is ${wide} px wider than the phone`);
  }
  return complaints;
};
