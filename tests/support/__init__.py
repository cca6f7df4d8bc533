"""What tests are made of: servers, users, relays, programs; and their own tests."""
