-- The table idalloc serves from. Safe to run more than once: nothing that exists is changed.
--
--   mysql -h 127.0.0.1 -u root -p < schema.sql

CREATE DATABASE IF NOT EXISTS `id_alloc_db` DEFAULT CHARACTER SET utf8mb4;

USE `id_alloc_db`;

CREATE TABLE IF NOT EXISTS `segments` (
  `app_tag` VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'one independent ID sequence',
  `max_id` BIGINT NOT NULL DEFAULT 0 COMMENT 'end of the newest reservation; IDs below it are taken',
  `step` BIGINT NOT NULL COMMENT 'smallest reservation, in IDs',
  `update_time` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP COMMENT 'newest reservation',
  PRIMARY KEY (`app_tag`)
) ENGINE = InnoDB;

INSERT IGNORE INTO `segments` (`app_tag`, `max_id`, `step`) VALUES ('test_business', 0, 100000);
