create table if not exists orders (
    id    bigint generated always as identity primary key,
    item  text not null,
    count integer not null
);
create table if not exists customers (
    id   bigint generated always as identity primary key,
    name text not null unique
);
alter table orders add column if not exists customer bigint references customers;
alter table orders add column if not exists price numeric(10, 2) not null default 0;
