use http::Method;

use super::{Client, Error, account_path, escape};
use crate::admin::{
    Device, DeviceChange, DevicePath, DeviceRemoved, JoinApproval, JoinRequest, Reachability,
};

impl Client {
    /// An account's devices, by name.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn devices(&self, account: &str) -> Result<Vec<Device>, Error> {
        self.list(&format!("{}/devices", account_path(account))).await
    }

    /// One device.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn device(&self, account: &str, device: &str) -> Result<Device, Error> {
        self.get(&device_path(account, device)).await
    }

    /// Lets the device in that shows this code.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn let_in(
        &self,
        account: &str,
        code: &str,
        approval: &JoinApproval,
    ) -> Result<JoinRequest, Error> {
        let path = format!("{}/join-requests/{}/approve", account_path(account), escape(code));
        self.send(Method::POST, &path, Some(approval)).await
    }

    /// The paths that a device uses or seeks, by peer.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn device_paths(
        &self,
        account: &str,
        device: &str,
    ) -> Result<Vec<DevicePath>, Error> {
        self.list(&format!("{}/paths", device_path(account, device))).await
    }

    /// Renames a device, sets its static endpoint or its tags.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn change_device(
        &self,
        account: &str,
        device: &str,
        change: &DeviceChange,
    ) -> Result<Device, Error> {
        self.send(Method::PATCH, &device_path(account, device), Some(change)).await
    }

    /// Expires a device: it is out of the mesh until it is renewed or joins again, and keeps name and
    /// addresses.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn expire_device(&self, account: &str, device: &str) -> Result<Device, Error> {
        let path = format!("{}/expire", device_path(account, device));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Removes a device; it is cut off everywhere at once.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn remove_device(&self, account: &str, device: &str) -> Result<DeviceRemoved, Error> {
        self.send(Method::DELETE, &device_path(account, device), None::<&()>).await
    }

    /// Lets a device's time begin anew, whether it was over or not.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn renew_device(&self, account: &str, device: &str) -> Result<Device, Error> {
        let path = format!("{}/renew", device_path(account, device));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Looks whether a device is reached at its static endpoint.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn reach_device(&self, account: &str, device: &str) -> Result<Reachability, Error> {
        let path = format!("{}/reach", device_path(account, device));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Lets a device into the mesh that waits.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn approve_device(&self, account: &str, device: &str) -> Result<Device, Error> {
        let path = format!("{}/approve", device_path(account, device));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Turns a device away that waits: it is removed. Says what it was.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn refuse_device(&self, account: &str, device: &str) -> Result<Device, Error> {
        let path = format!("{}/refuse", device_path(account, device));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Turns the device away that shows this code.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn turn_away(&self, account: &str, code: &str) -> Result<JoinRequest, Error> {
        let path = format!("{}/join-requests/{}/deny", account_path(account), escape(code));
        self.send(Method::POST, &path, None::<&()>).await
    }
}

fn device_path(account: &str, device: &str) -> String {
    format!("{}/devices/{}", account_path(account), escape(device))
}
